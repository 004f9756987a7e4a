"""Models on the same images: which one is better, and how sure that is."""
