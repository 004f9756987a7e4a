"""The pictures of a finished run."""
