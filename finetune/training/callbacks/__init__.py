"""What hooks into Lightning's Trainer, one file each."""
