"""What predict reads: paths, folders, globs or a dataset's rows -> batches of prepared images, in order."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from finetune.console import log
from finetune.data import images
from finetune.errors import DatasetError
from finetune.loading import allocator
from finetune.loading.transforms import Transform
from finetune.loading.workers import default_workers, ignore_signals
from finetune.text import unquoted


class Batch(NamedTuple):
    """Some consecutive images of the input.

    Attributes:
        rows: Places in the input of those that could be read.
        pixels: float32 `[len(rows), 3, H, W]`, or what the transform's own `collate` makes of the images.
        problems: Place in the input, and reason, of each that could not.
    """

    rows: list[int]
    pixels: Any
    problems: list[tuple[int, str]]


@dataclass(frozen=True)
class Inputs:
    """Images to classify.

    Attributes:
        names: What to call each, as columns of the output.
        values: For each, what `finetune.data.images.decode` takes, or the error that says why there is none.
    """

    names: Sequence[dict[str, Any]]
    values: Sequence[Any]


def from_paths(patterns: Sequence[str]) -> Inputs:
    """Files as they are named, the images in folders and below by name, and what globs match.

    A path at which there is nothing, and a folder without images, become entries that cannot be read.
    """
    names, values = [], []
    for pattern in patterns:
        for path, problem in _expand(pattern):
            names.append({"image": path})
            values.append(DatasetError(problem) if problem else os.path.abspath(path))
    return Inputs(names, values)


def _expand(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Paths that a user's word stands for, each with what is wrong with it."""
    path = os.path.expanduser(pattern)
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if not matches:
        yield pattern, "nothing matches" if glob.has_magic(path) else "no such file or folder"
    for match in matches:
        if not os.path.isdir(match):
            yield match, None
        elif len(matches) == 1 or "**" not in path:  # what is below a match of `**` is a match itself
            yield from _below(match)


def _below(folder: str) -> Iterator[tuple[str, str | None]]:
    """Images in a folder and its folders, by their names; hidden files are none."""
    known = set(PILImage.registered_extensions())
    found, others = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in files if not name.startswith(".")]
        pictures = [name for name in shown if os.path.splitext(name)[1].lower() in known]
        found += [os.path.join(place, name) for name in sorted(pictures)]
        others += len(shown) - len(pictures)
    if others:
        log.info(f"{folder}: {others} files are no images by their names, and left out; name a file to have it tried")
    if not found:
        yield folder, "a folder without image files"
    yield from ((path, None) for path in found)


class _Batches(TorchDataset[Batch]):
    """Batches of decoded, transformed images, indexed by their places in the input."""

    def __init__(self, values: Sequence[Any], transform: Transform) -> None:
        self.values, self.transform = values, transform

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        good: list[int] = []
        pixels: list[Any] = []
        collate = getattr(self.transform, "collate", torch.stack)
        problems: list[tuple[int, str]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            for row in rows:
                try:
                    pixels.append(self.transform(self._picture(row)))
                    good.append(row)
                except Exception as error:  # Pillow's decoders raise whatever they like on broken input
                    problems.append((row, _reason(error)))
        return Batch(good, collate(pixels) if pixels else torch.empty(0), problems)

    def _picture(self, row: int) -> PILImage.Image:
        value = self.values[row]
        if isinstance(value, Exception):
            raise value
        return images.decode(value)


def _reason(error: Exception) -> str:
    if isinstance(error, DatasetError):
        return str(error)
    text = unquoted(re.sub(r" <\S+ object at 0x\w+>", "", " ".join(str(error).split())))
    return f"{type(error).__name__}: {text[:200]}"


def loader(inputs: Inputs, transform: Transform, batch_size: int, workers: int | None) -> DataLoader[Batch]:
    """Batches in the order of the input, decoded ahead by other processes where that pays.

    Args:
        inputs: The images.
        transform: PIL RGB -> float32 `[3, H, W]`; or what it brings together itself, by `collate`.
        batch_size: Images per batch.
        workers: Processes; chosen from the cores at hand when not given.
    """
    count = len(inputs.values)
    return DataLoader(
        _Batches(inputs.values, transform),
        batch_size=None,
        sampler=[range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)],
        num_workers=default_workers(count) if workers is None else workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread_and_no_signals,
    )


def _one_thread_and_no_signals(_worker: int) -> None:
    """The main process stops the workers; a Ctrl-C goes to all, and theirs would end in tracebacks."""
    torch.set_num_threads(1)
    allocator.give_back()
    ignore_signals()
