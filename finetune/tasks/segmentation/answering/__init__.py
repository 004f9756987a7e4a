"""A segmentation that answers: masks for `predict`, the page of `demo`."""
