"""Published training recipes, one YAML file each, with the source of every line."""
