"""A finished model that answers: from images to classes, and the page of `demo`."""
