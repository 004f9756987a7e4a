"""Datasets that are read while they are trained on: parquet and WebDataset shards on the Hub or on disk, not copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetInfo, Features, Image, IterableDataset, IterableDatasetDict
from datasets.table import InMemoryTable

from finetune.console import log
from finetune.data import shaping, source
from finetune.data.dataset import LabelledImages
from finetune.data.scan import BadImage
from finetune.data.splits import ROLES, SplitRows, Splits
from finetune.errors import DatasetError, SchemaError, SplitError, listing, suggest
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.task import Reading, Schema

OPTIONS = (
    "dataset_config",
    "revision",
    "image_column",
    "target_column",
    "train_split",
    "val_split",
    "test_split",
    "classes",
    "max_image_pixels",
)
"""Settings of a run that `prepare` takes."""
_ROWS = 64  # that are read at once
_IMAGES = 16  # of each split, whose bytes are compared
EXAMPLES = 10_000
"""Rows of a stream whose targets are read before the training, where a task has to know their scale."""


class LeftOut(NamedTuple):
    """A row that nothing can be learnt from.

    Attributes:
        shard: Number of the shard in its split, from 0.
        row: In the shard, from 0.
        reason: Why its image does not decode; None for a row without a label.
    """

    shard: int
    row: int
    reason: str | None


@dataclass(frozen=True)
class StreamedImages(LabelledImages):
    """A stream that is ready for training; what it holds is known as far as it has been read.

    `splits` has no rows at first. After an evaluation those of validation and test are the images that were counted, in
    the order of the predictions; those of train stand for the images of the last epoch, in the order of the training.

    Attributes:
        streams: By role: rows of an encoded image and a target.
        left_out: By role, the rows that were left out, so far.
        epochs: Of the training so far: `steps`, `images`, and `left_over`, the images at the end that did not fill a
            batch on every process; None where `--steps-per-epoch` ended the epoch before.
    """

    streams: dict[str, IterableDataset] = field(default_factory=dict)
    left_out: dict[str, set[LeftOut]] = field(default_factory=dict)
    epochs: list[dict[str, int | None]] = field(default_factory=list)

    def values(self, role: str, places: Sequence[int]) -> list[Any]:
        """Encoded images at some places of a role, by reading its split again up to the last of them."""
        rows = self.splits.parts[role].rows[list(places)].tolist()
        wanted, found = set(rows), {}
        for row, value in enumerate(self._images(role)):
            if row in wanted:
                found[row] = value
                if len(found) == len(wanted):
                    break
        if len(found) < len(wanted):
            raise DatasetError(
                f"the stream of {self.splits.parts[role].source!r} has become shorter: start another run"
            )
        return [found[row] for row in rows]

    def files(self, role: str, places: Sequence[int]) -> list[str]:
        """Nothing: what is read once has no names to find it by."""
        return [""] * len(places)

    def sample(self, role: str, count: int) -> list[Any]:
        """The first encoded images of a role."""
        return list(islice(self._images(role), count))

    def _images(self, role: str) -> Iterator[Any]:
        for _, images, _ in tables(self.streams[role], self.schema):
            yield from images

    def example_targets(self, role: str) -> np.ndarray:
        """Targets of at most `EXAMPLES` labelled rows, the first ones of each shard; all where there are no more."""
        stream = self.streams[role].select_columns(list(self.schema.columns))
        share = max(1, -(-EXAMPLES // stream.num_shards))
        found = []
        for shard in range(stream.num_shards):
            targets = self._first_targets(stream.shard(num_shards=stream.num_shards, index=shard), share)
            found.append(targets[self.schema.labelled(targets)])
        return np.concatenate(found)

    def _first_targets(self, shard: IterableDataset, count: int) -> np.ndarray:
        parts, start = [self.schema.encode([])], 0
        for rows in target_rows(shard, self.schema):
            parts.append(self.schema.encode(self.schema.read(rows)))
            start += len(rows)
            if start >= count:
                break
        return np.concatenate(parts)[:count]

    def fingerprint(self, role: str) -> str:
        """Number of shards, and a hash of the commit on the Hub, or of some images on disk."""
        content = hashlib.sha256(f"{self.splits.parts[role].source} {self.source.revision}".encode())
        if self.source.revision is None:
            for value in self.sample(role, _IMAGES):
                content.update(value["bytes"] or b"")
        return f"{self.streams[role].num_shards} shards, {content.hexdigest()[:16]}"

    @property
    def facts(self) -> dict[str, Any]:
        """For result.json."""
        shards = {role: stream.num_shards for role, stream in self.streams.items()}
        return {"stream": {"shards": shards, "epochs": self.epochs}}

    def exclude(self, role: str, rows: Sequence[LeftOut]) -> int:
        """Remember rows that are left out; tells how many of them were not known yet."""
        known = self.left_out.setdefault(role, set())
        before = len(known)
        known.update(rows)
        if len(known) > before:
            name = self.splits.parts[role].source
            bad = sorted(row for row in known if row.reason is not None)
            listed = [BadImage(r.row, f"{r.reason} (row of shard {r.shard})") for r in bad]
            self.undecodable.update({name: listed} if listed else {})
            self.unlabelled.update({name: len(known) - len(bad)} if len(known) > len(bad) else {})
        return len(known) - before


def tables(stream: IterableDataset, found: Schema) -> Iterator[tuple[int, list[Any], Sequence[Any]]]:
    """A stream's rows, some at once: number of the first, encoded images, and what the schema reads to encode."""
    start = 0
    # Unlike iteration over single rows, `iter` does not share the stream among a loader's workers in a way of its own.
    for table in stream.with_format("arrow").iter(batch_size=_ROWS):
        yield start, table[found.image_column].to_pylist(), found.read(_of_targets(table, stream, found))
        start += len(table)


def target_rows(stream: IterableDataset, found: Schema) -> Iterator[Dataset]:
    """The columns of the target of a stream that has no others, some rows at once."""
    for table in stream.with_format("arrow").iter(batch_size=_ROWS):
        yield _of_targets(table, stream, found)


def _of_targets(table: Any, stream: IterableDataset, found: Schema) -> Dataset:
    """The columns of the target as a dataset in memory, so that streams are read as all other datasets are."""
    known = stream.features
    info = None if known is None else DatasetInfo(features=Features({name: known[name] for name in found.columns}))
    return Dataset(InMemoryTable(table.select(list(found.columns))), info, fingerprint="stream")


def prepare(
    dataset: Any,
    task: Reading,
    *,
    train_split: str,
    val_split: str,
    test_split: str,
    classes: str | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    target_column: str | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> StreamedImages:
    """Open a dataset for streaming; nothing but its facts is read.

    `dataset` is what `finetune.data.source.load` takes, `task` recognises what there is to learn; the others are the
    command line's flags, see `finetune.settings.options.DataOptions`.

    Raises:
        DatasetError: It cannot be opened, or is not of a kind that can be streamed.
        SchemaError: It does not say what to learn, or which classes there are.
        SplitError: A split does not exist.
    """
    opened = source.load(dataset, dataset_config, revision, streaming=True)
    if not isinstance(opened.splits, IterableDatasetDict):
        raise DatasetError(
            f"--streaming reads parquet and WebDataset files on the Hub or on disk; {opened.id} is none of these: "
            "leave out --streaming"
        )
    asked = {"train": train_split, "validation": val_split, "test": test_split}
    for role, name in asked.items():
        if name not in opened.splits:
            option = {"train": "--train-split", "validation": "--val-split", "test": "--test-split"}[role]
            hint = suggest(name, opened.splits) or "."
            raise SplitError(f"{option}: no split {name!r}{hint} Splits: {listing(opened.splits)}")
    read = {role: shaping.streamed(opened.splits[name]) for role, name in asked.items()}
    found = _schema(read["train"], task, image_column, target_column, classes)
    streams = {role: _stream(read[role], name, found) for role, name in asked.items()}
    nothing = np.empty(0, dtype=np.int64)
    parts = {role: SplitRows(asked[role], nothing, found.encode([]), whole=True) for role in ROLES}
    ignored = tuple(name for name in opened.splits if name not in asked.values())
    _describe(found, streams, asked)
    made = Splits(parts, ignored=ignored)
    return StreamedImages(opened, found, made, max_image_pixels=max_image_pixels, streams=streams)


def _schema(
    stream: IterableDataset, task: Reading, image_column: str | None, target_column: str | None, classes: str | None
) -> Schema:
    if stream.features is None:
        raise SchemaError("the stream does not say which columns it has: leave out --streaming")
    return task.recognise(stream.features, image_column, target_column).declared(classes)


def _stream(stream: IterableDataset, name: str, found: Schema) -> IterableDataset:
    columns = [found.image_column, *found.columns]
    missing = [column for column in columns if column not in (stream.features or columns)]
    if missing:
        raise SchemaError(f"split {name!r} has no column {missing[0]!r}: expected the columns of the training split")
    if stream.features is not None:
        found.check_stream(name, stream.features)
    return stream.select_columns(columns).cast_column(found.image_column, Image(decode=False))


def _describe(found: Schema, streams: Mapping[str, IterableDataset], names: Mapping[str, str]) -> None:
    log.info(f"task: {found.task}, {found.described()}")
    for role, stream in streams.items():
        count = stream.num_shards
        log.info(f"{role}: streamed from split {names[role]!r}, {count} shard{'' if count == 1 else 's'}")
