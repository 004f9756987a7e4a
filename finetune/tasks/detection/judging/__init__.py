"""From what was found in the images of a split to how good, how sure, and what went wrong."""
