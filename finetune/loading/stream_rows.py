"""A part of a stream: which shards a process and a worker read, and what they make of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import fsspec.asyn  # type: ignore[import-untyped]
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import default_collate, get_worker_info

from finetune.data import images, outside
from finetune.errors import DatasetError, FinetuneError, SchemaError
from finetune.loading.datamodule import prepare_worker
from finetune.loading.randomness import seed_augmentation
from finetune.loading.stream_source import LeftOut, StreamedImages, tables
from finetune.loading.transforms import Transform

BUFFER = 1000
"""Encoded images that each worker keeps to draw the next one from."""

Row = tuple[int, int, Any, Any]
"""Shard, row in it, encoded image, and its target as the schema encodes it; None where there is none."""


class Chunk(NamedTuple):
    """What has been made of some rows.

    Attributes:
        pixels: uint8 `[B, 3, H, W]`, channels last in memory.
        targets: `[B, ...]`, as the schema encodes them.
        places: int64 `[B, 2]`, shard and row in it.
        left_out: Rows that were met on the way.
        lengths: Rows of each shard that has been read to its end.
        problem: What ended the reading, if something did.
    """

    pixels: Tensor
    targets: Tensor
    places: Tensor
    left_out: list[LeftOut]
    lengths: dict[int, int]
    problem: FinetuneError | None = None


def parts(order: Sequence[int], number: int, of: int) -> list[tuple[int, int, int]]:
    """What the `number`-th of `of` readers reads: shards, each with its first row and the step to the next.

    As many whole shards for each as there are for all; what remains is read by all of them, each taking every `of`-th
    row: the readers end at about the same time, whatever the number of shards.
    """
    whole = len(order) // of * of
    return [(shard, 0, 1) for shard in order[number:whole:of]] + [(shard, number, of) for shard in order[whole:]]


def shuffled(rows: Iterator[Row], rng: np.random.Generator, size: int = BUFFER) -> Iterator[Row]:
    """Rows drawn from the next `size` of them, each once."""
    pocket: list[Row] = []
    for row in rows:
        if len(pocket) < size:
            pocket.append(row)
            continue
        place = int(rng.integers(size))
        drawn, pocket[place] = pocket[place], row
        yield drawn
    for place in rng.permutation(len(pocket)).tolist():
        yield pocket[place]


def merged(chunks: Iterator[Chunk], size: int) -> Iterator[Chunk]:
    """Chunks of exactly `size` images of those that several workers end with too; the last may be smaller, or empty."""
    rest: list[Chunk] = []
    for chunk in chunks:
        if len(chunk.targets) == size:
            yield chunk
            continue
        rest.append(chunk)
        if sum(len(part.targets) for part in rest) >= size:
            whole = joined(rest)
            yield whole._replace(pixels=whole.pixels[:size], targets=whole.targets[:size], places=whole.places[:size])
            rest = [Chunk(whole.pixels[size:], whole.targets[size:], whole.places[size:], [], {})]
            rest = rest if len(rest[0].targets) else []
    if rest:
        yield joined(rest)


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks as one."""
    filled = [chunk for chunk in chunks if len(chunk.targets)] or chunks[:1]
    pixels = torch.cat([chunk.pixels.permute(0, 2, 3, 1) for chunk in filled]).permute(0, 3, 1, 2)
    targets, places = (torch.cat([getattr(chunk, name) for chunk in filled]) for name in ("targets", "places"))
    left_out = [row for chunk in chunks for row in chunk.left_out]
    lengths = {shard: length for chunk in chunks for shard, length in chunk.lengths.items()}
    return Chunk(pixels, targets, places, left_out, lengths, next((c.problem for c in chunks if c.problem), None))


class StreamRows(TorchIterableDataset[Chunk]):
    """This worker's part of this process's part of a split, as chunks of `size` images; the last is smaller, or empty.

    What a random transform draws for an image depends on (seed, epoch, shard, row) alone, as in
    `finetune.loading.datamodule.ImageRows`; which images are in a chunk depends on processes and workers too.

    Args:
        data: The dataset.
        role: Which split of it.
        transform: What `read` gives -> uint8 `[3, H, W]`.
        read: An encoded image and the most pixels it may have -> a PIL image.
        size: Images of a chunk.
        shape: Of a transformed image, `(3, H, W)`.
        rank: Of this process.
        world: Number of processes.
        shuffle: Seed and epoch of the order; shards and rows as they stand when not given.
    """

    def __init__(
        self,
        data: StreamedImages,
        role: str,
        transform: Transform,
        read: Callable[[Any, int], PILImage.Image],
        size: int,
        shape: tuple[int, int, int],
        rank: int = 0,
        world: int = 1,
        shuffle: tuple[int, int] | None = None,
    ) -> None:
        self.stream, self.found, self.name = data.streams[role], data.schema, data.splits.parts[role].source
        self.max_pixels = data.max_image_pixels
        self.transform, self.read, self.size, self.shape = transform, read, size, shape
        self.rank, self.world, self.shuffle = rank, world, shuffle
        self.lengths: dict[int, int] = {}

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader, readers = self.rank * workers + number, self.world * workers
        order = np.arange(self.stream.num_shards)
        if self.shuffle is not None:
            order = np.random.default_rng(self.shuffle).permutation(order)
        rows = self._rows(parts(order.tolist(), reader, readers))
        if self.shuffle is not None:
            rows = shuffled(rows, np.random.default_rng((*self.shuffle, reader, readers)))
        self.lengths = {}
        try:
            yield from self._chunks(rows)
        except FinetuneError as error:  # as a value: of an error a loader's process hands over a traceback's text
            yield self._chunk([], [])._replace(problem=error)

    def _chunks(self, rows: Iterator[Row]) -> Iterator[Chunk]:
        taken: list[tuple[Tensor, Any, tuple[int, int]]] = []
        left_out: list[LeftOut] = []
        for shard, row, value, target in rows:
            made = None if target is None else self._pixels(shard, row, value)
            if not isinstance(made, Tensor):
                left_out.append(LeftOut(shard, row, made))
                continue
            taken.append((made, target, (shard, row)))
            if len(taken) == self.size:
                yield self._chunk(taken, left_out)
                taken, left_out = [], []
        yield self._chunk(taken, left_out)

    def _chunk(self, taken: list[tuple[Tensor, Any, tuple[int, int]]], left_out: list[LeftOut]) -> Chunk:
        lengths, self.lengths = self.lengths, {}
        if not taken:
            pixels = torch.empty(0, *self.shape, dtype=torch.uint8)
            places = torch.empty(0, 2, dtype=torch.int64)
            return Chunk(pixels, torch.from_numpy(self.found.encode([])), places, left_out, lengths)
        # Pillow's layout, and the model's; in a worker this collates into shared memory.
        pixels = default_collate([made.permute(1, 2, 0) for made, _, _ in taken]).permute(0, 3, 1, 2)
        places = torch.tensor([place for _, _, place in taken])
        targets = torch.from_numpy(np.stack([target for _, target, _ in taken]))
        return Chunk(pixels, targets, places, left_out, lengths)

    def _rows(self, mine: Sequence[tuple[int, int, int]]) -> Iterator[Row]:
        for shard, first, step in mine:
            row = -1
            for row, (value, target) in enumerate(self._shard(shard)):
                if row % step == first:
                    yield shard, row, value, target
            self.lengths[shard] = row + 1

    def _shard(self, shard: int) -> Iterator[tuple[Any, Any]]:
        alone, start = self.stream.shard(num_shards=self.stream.num_shards, index=shard), 0
        try:
            for first, values, targets in tables(alone, self.found):
                start = first
                yield from zip(values, self._encoded(targets), strict=True)
        except SchemaError as error:
            where = f"shard {shard} of split {self.name!r}, from row {start}"
            raise SchemaError(f"{where}: {error}") from error
        except FinetuneError:
            raise
        except Exception as error:  # readers and file systems raise whatever they like on a broken file
            text = " ".join(str(error).split())[:200]
            raise DatasetError(
                f"shard {shard} of split {self.name!r} cannot be read ({type(error).__name__}: {text}): check that it "
                "is whole and can be reached, then go on with --resume"
            ) from error

    def _encoded(self, values: Sequence[Any]) -> list[Any]:
        """Each row's target; None where there is none."""
        targets = self.found.encode(values)
        return [target if known else None for target, known in zip(targets, self.found.labelled(targets), strict=True)]

    def _pixels(self, shard: int, row: int, value: Any) -> Tensor | str:
        """The transformed image, or why it does not decode."""
        value = outside.of_stream(value)
        try:
            image = self.read(value, self.max_pixels)
            with isolate_rng(include_cuda=False):  # without workers the model's dropout draws from the same generators
                seed_augmentation(*(self.shuffle or (0, 0)), shard, row)
                return self.transform(image)
        except Exception as error:  # Pillow's decoders raise whatever they like on broken input
            try:
                images.decode(value, self.max_pixels)
            except Exception as problem:
                return images.reason(problem)
            raise error


def prepare_stream_worker(worker: int) -> None:
    """Before a loader's process reads from the network: a lock may have been held when it was forked."""
    fsspec.asyn.reset_lock()
    prepare_worker(worker)
