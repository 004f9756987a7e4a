"""From a trained model to files that strangers load, written, checked, and run again from the file alone."""
