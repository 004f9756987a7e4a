"""A detector as one file: its graph, what it is compared by, and how it answers from that file alone."""
