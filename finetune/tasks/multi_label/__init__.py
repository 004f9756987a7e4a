"""Multi-label classification, several classes an image or none: all that it brings and no other task does."""
