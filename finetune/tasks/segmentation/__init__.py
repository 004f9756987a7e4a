"""Semantic segmentation: all that it brings and no other task does."""
