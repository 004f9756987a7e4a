"""One file for each verb of the command line: what happens from its settings to its result."""
