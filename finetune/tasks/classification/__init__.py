"""Single-label classification: all that it brings and no other task does."""
