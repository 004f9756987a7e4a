"""Limits that the flags and the parts share; imports nothing, so that config stops at the door."""

MAX_IMAGE_PIXELS = 178_956_970
"""Where Pillow refuses an image as a decompression bomb unless told otherwise; half a gigabyte as RGB."""
