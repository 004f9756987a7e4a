"""What stands in a dataset -> objects: where in a row, in which form, in which frame, and what is wrong with it."""
