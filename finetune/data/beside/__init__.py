"""What stands beside the images and is read with them: masks, counted and understood before the splits are made."""
