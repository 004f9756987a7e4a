"""The pictures of a finished regression."""
