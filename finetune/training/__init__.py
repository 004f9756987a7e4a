"""Lightning's Trainer for one run, and all that hooks into it."""
