"""Bounds and switches that the flags and the rest share; imports nothing, so that `--help` answers at once."""

MAX_IMAGE_PIXELS = 178_956_970
"""Where Pillow refuses an image as a decompression bomb unless told otherwise; half a gigabyte as RGB."""

VERIFY = "FINETUNE_VERIFY"
"""Environment variable; 0 leaves out the certificate, which costs the import of three libraries."""
