"""A regression that answers: predictor, `predict`, the page of `demo`."""
