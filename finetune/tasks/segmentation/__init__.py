"""A class a pixel."""
