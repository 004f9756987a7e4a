"""Images and their objects as batches."""
