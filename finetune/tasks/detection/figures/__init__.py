"""The pictures of a detector's run: images with what is there and what was found, precision and recall, classes."""
