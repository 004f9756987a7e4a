"""Object detection and instance segmentation: all that they bring and no other task does."""
