"""What a user can do wrong, each with its remedy in the message; the command line prints it and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from finetune.text import visible


class FinetuneError(Exception):
    """Base of every error that is the user's to mend: the message says what was expected, what was got, what to do."""

    exit_code = 2
    shared = False
    """Whether all processes of a run raise it together, so that one of them saying so is enough."""


class ConfigError(FinetuneError, ValueError):
    """A flag, or a combination of flags, makes no sense."""


class DatasetError(FinetuneError, ValueError):
    """The dataset does not exist, cannot be reached or cannot be read."""


class LostImageError(DatasetError):
    """An image that decoded when the data was checked does not any more."""

    def __init__(self, message: str) -> None:
        # A loader's process hands over the text of its traceback, of which this is the last line.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class SchemaError(FinetuneError, ValueError):
    """The dataset's columns do not say what to train on."""


class SeveralReadingsError(SchemaError):
    """A dataset's columns can be read in several ways, and nothing says which is meant."""


class SplitError(FinetuneError, ValueError):
    """The dataset cannot be split into train, validation and test."""


class ModelError(FinetuneError, ValueError):
    """The model does not exist, cannot be reached or does not fit the input."""


class RunFolderError(FinetuneError, OSError):
    """The run folder is taken, missing or incomplete."""


class OutputError(FinetuneError, OSError):
    """A dataset that is being prepared, or features, cannot be written where they should lie."""


class CheckpointError(FinetuneError, OSError):
    """A checkpoint cannot be written, or none of a run's can be read."""


class ResumeError(FinetuneError, ValueError):
    """A run cannot go on with what is given: it was begun with something else."""


class NotReproducedError(FinetuneError):
    """A run that was made again came out as another one."""

    exit_code = 3


class NonFiniteError(FinetuneError, ArithmeticError):
    """The loss or the weights are no longer numbers."""

    shared = True


class DeviceMemoryError(FinetuneError, MemoryError):
    """The device's memory does not hold so many images at a time."""


class ExportError(FinetuneError, ValueError):
    """The model cannot be saved in a form that other libraries load with equal outputs."""


class PeerError(FinetuneError):
    """Another process of the same run has failed, and has said why."""

    shared = True


class LostPeerError(FinetuneError):
    """Another process of the same run is gone without a word."""


class Stopped(FinetuneError):
    """A signal ended the training after the state was saved."""

    exit_code = 75
    shared = True


class Interrupted(FinetuneError):
    """Ctrl-C ended a preparation that the same command goes on with."""

    exit_code = 130


class SeriousFindingError(FinetuneError):
    """Something in a dataset would make its numbers untrue; what, has been said."""

    exit_code = 3


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that names the nearest known names, or nothing.

    Args:
        name: What the user gave.
        known: What there is.
        count: How many to name at most.

    Returns:
        For instance `"; did you mean resnest50 or resnest50d?"`, or an empty string.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def listing(items: Iterable[object], limit: int = 10) -> str:
    """`a, b, c, ... (20 in all)`."""
    texts = [visible(str(item)) for item in items]  # names come from datasets: none has a line of its own
    shown = ", ".join(texts[:limit])
    return f"{shown}, ... ({len(texts)} in all)" if len(texts) > limit else shown
