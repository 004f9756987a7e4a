"""What a folder is, decided from its whole tree at once: splits, classes, tables, containers, a README's pictures."""
