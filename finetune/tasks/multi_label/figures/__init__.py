"""The pictures of a finished multi-label run."""
