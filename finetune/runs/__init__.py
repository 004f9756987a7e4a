"""The run folder, and the numbers in it."""
