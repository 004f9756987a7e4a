"""Statistics of probes: label errors, and what more images would bring."""
