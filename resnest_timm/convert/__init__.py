"""From an upstream checkpoint to a folder that timm loads."""
