"""Where a finished model fails: kinds of images, and corrupted ones."""
