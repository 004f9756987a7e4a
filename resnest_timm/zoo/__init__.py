"""One row for each released checkpoint, and where its weights are."""
