"""How an exported file comes to be: whole or not at all, and with one kind of error for whatever goes wrong."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from finetune.errors import ExportError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file of this name to, and perhaps others beside it; all move to `path` where nothing fails.

    Args:
        path: To write.
    """
    scratch = path.with_name(f".{path.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch / path.name
        weights = [part for part in scratch.iterdir() if part.name != path.name]
        if weights:  # an older file must not be read with new weights
            path.unlink(missing_ok=True)
        for part in (*weights, scratch / path.name):
            os.replace(part, path.with_name(part.name))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def exporter(library: str) -> Iterator[None]:
    """Where an exporter runs: without its warnings, which are of its dependencies and of what it makes constant.

    Raises:
        ExportError: It cannot do it.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the exporters' classes vary by version and by cause
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"this model cannot be exported for {library}: {type(error).__name__}: {first}") from error


@contextmanager
def runtime(library: str) -> Iterator[None]:
    """Where a library runs what was exported.

    Raises:
        ExportError: It cannot.
    """
    try:
        yield
    except Exception as error:  # the libraries' classes have no public base
        first = (str(error).splitlines() or [""])[0]
        raise ExportError(f"{library} cannot run the exported model: {first}") from error
