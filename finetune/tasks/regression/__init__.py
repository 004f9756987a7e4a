"""A number an image: all that it brings and no other task does."""
