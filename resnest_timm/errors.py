"""What a user can do wrong; the message says what was expected, what was got and what to do."""

from __future__ import annotations


class ZooError(Exception):
    """Base of the errors that the command line prints in one or two lines, with exit code 2."""

    exit_code = 2


class UsageError(ZooError, ValueError):
    """A flag, a name or a pattern that does not fit."""


class ConversionError(ZooError, ValueError):
    """A checkpoint cannot be read, or is not what it should be."""


class OptimizeError(ValueError):
    """A model has no inference form, or its inference form is used for something else."""
