"""From a dataset's name to rows: where it comes from, what is in it, how it is split, what is wrong with it."""
