"""Verbs that say how far a dataset, a model and a number can be trusted."""
