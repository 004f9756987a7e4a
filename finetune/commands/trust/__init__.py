"""Verbs that say whether data and numbers can be trusted."""
