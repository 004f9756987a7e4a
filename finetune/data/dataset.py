"""A source, its schema and its splits, brought together: what there is to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image

from finetune.console import log
from finetune.data import outside, source, splits
from finetune.data.beside import examine
from finetune.data.beside.examine import Looked
from finetune.data.checks import account, exclusion, groups
from finetune.data.places import Place
from finetune.data.scan import BadImage
from finetune.data.source import Source
from finetune.data.splits import SplitRows, Splits
from finetune.errors import DatasetError, SchemaError, SplitError, listing
from finetune.examining import Examining
from finetune.optional import Marked
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.task import Reading, Schema

_IMAGES = 16  # of each split, whose bytes are compared
TARGETS = "targets of the "
"""Of `LabelledImages.fingerprints`, how the names begin of what runs of before know nothing of."""


@dataclass(frozen=True)
class LabelledImages:
    """A dataset that is ready for training.

    Attributes:
        source: Where it comes from.
        schema: What it holds for its task.
        splits: Which image is for what.
        undecodable: By source split, images that were left out because they do not decode.
        unlabelled: By source split, how many images were left out because they have no label.
        max_image_pixels: Larger images were left out as well.
        listed: By source split, how many images a list of the user leaves out.
    """

    source: Source
    schema: Schema
    splits: Splits
    undecodable: dict[str, list[BadImage]] = field(default_factory=dict)
    unlabelled: dict[str, int] = field(default_factory=dict)
    max_image_pixels: int = MAX_IMAGE_PIXELS
    listed: dict[str, int] = field(default_factory=dict)

    def encoded(self, role: str) -> Dataset:
        """The source's split that holds a role's images, which are not decoded yet."""
        column = self.schema.image_column
        return self.source.splits[self.splits.parts[role].source].cast_column(column, Image(decode=False))

    def values(self, role: str, places: Sequence[int]) -> list[Any]:
        """Encoded images at some places of a role."""
        rows = self.splits.parts[role].rows
        encoded = self.encoded(role).select_columns([self.schema.image_column])  # nothing beside it is decoded
        return [encoded[int(rows[place])][self.schema.image_column] for place in places]

    def located(self, place: int) -> tuple[str, int]:
        """Role and place in it of an image that is counted over all roles, in their order."""
        for role, count in self.splits.counts().items():
            if place < count:
                return role, place
            place -= count
        raise IndexError(place)

    def files(self, role: str, places: Sequence[int]) -> list[str]:
        """Names of the files of images at some places of a role, as far as the dataset says; else empty."""
        column, rows = self.schema.image_column, self.splits.parts[role].rows
        table = self.encoded(role).select_columns([column]).with_format("arrow")
        values = table[[int(rows[place]) for place in places]].column(column) if len(places) else []
        return [str(value["path"].as_py() or "") for value in values]

    def sample(self, role: str, count: int) -> list[Any]:
        """At most `count` encoded images of a role, spread over it."""
        images = len(self.splits.parts[role].rows)
        return self.values(role, np.linspace(0, images - 1, min(count, images), dtype=np.int64).tolist())

    def fingerprint(self, role: str) -> str:
        """How many images a role has, and a hash of which they are, their labels, and the bytes of some."""
        part = self.splits.parts[role]
        content = hashlib.sha256(part.rows.astype("<i8").tobytes() + _bytes(part.targets))
        for value in self.sample(role, _IMAGES):
            content.update(value["bytes"] or Path(value["path"]).read_bytes())
        return f"{len(part.rows)} images, {content.hexdigest()[:16]}"

    def fingerprints(self) -> dict[str, str]:
        """By a name for messages, what tells this dataset from another; see `fingerprint`.

        What a `Marked` schema has besides is apart, for runs of before know of the first alone.
        """
        roles = sorted(self.splits.parts)
        made = {f"{role} split": self.fingerprint(role) for role in roles}
        if isinstance(self.schema, Marked):
            for role in roles:
                rows = self.splits.parts[role].rows
                made[f"{TARGETS}{role} split"] = f"{len(rows)} images, {self.schema.digest(self.encoded(role), rows)}"
        return made

    @property
    def facts(self) -> dict[str, Any]:
        """What result.json has of the dataset besides."""
        return {}

    def targets(self, role: str) -> np.ndarray:
        """What there is to learn of a role's images, in their order."""
        return self.splits.parts[role].targets

    def example_targets(self, role: str) -> np.ndarray:
        """What there is to learn of a role's images before any is read: all of them; of a stream some."""
        return self.targets(role)


def _bytes(targets: np.ndarray) -> bytes:
    """The same on every machine."""
    return targets.astype("<i8" if targets.dtype.kind in "iub" else "<f8").tobytes()


def prepare(
    dataset: str | Place | Dataset | DatasetDict | Source,
    task: Reading,
    *,
    dataset_config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    target_column: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    max_samples: int | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    group_column: str | None = None,
    exclude: str | Path | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Open a dataset, infer what it holds, leave out what cannot be used, and split the rest.

    `dataset` is what `finetune.data.source.load` takes or gave; `task` recognises what there is to learn; the others
    are the command line's flags, see `finetune.settings.options.DataOptions`.

    Raises:
        DatasetError: It cannot be opened, or too much of it cannot be read.
        SchemaError: Its columns do not say what to learn.
        SplitError: It cannot be split.
    """
    opened, inferred, targets = _targets(dataset, task, dataset_config, revision, image_column, target_column)
    rng = np.random.default_rng(seed)
    seen = _look(opened, inferred, targets, _labelled(inferred, targets), max_samples, max_image_pixels, rng)
    labelled = _labelled(seen.schema, seen.targets)
    asked = {"train": train_split, "validation": val_split, "test": test_split}
    _check_asked(asked, seen.targets, labelled)
    roles = splits.assign(labelled, asked)
    names = list(roles.values())
    _decode(seen, opened, names, max_samples, max_image_pixels, rng, looking=True)
    listed = _listed(exclude, targets)
    usable = {name: exclusion.kept(examine.usable(seen, name), listed.get(name, [])) for name in names}
    belongs = groups.read(opened.splits, group_column, roles) if group_column else {}
    grouped = belongs.get(roles["train"])
    made = splits.make(seen.targets, usable, roles, seen.schema, val_fraction, test_fraction, seed, grouped)
    left_out = {name: len(of) for name in names if (of := np.intersect1d(seen.rows[name], listed.get(name, []))).size}
    prepared = _described(opened, seen, made, max_image_pixels, left_out)
    if belongs:
        groups.say(made, belongs)
    for line in seen.schema.remarks(made.parts["train"].targets):
        log.info(line)
    return prepared


def whole_split(
    dataset: str | Place | Dataset | DatasetDict | Source,
    task: Reading,
    *,
    split: str | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    target_column: str | None = None,
    max_samples: int | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    seed: int = 0,
) -> LabelledImages:
    """Open a dataset for evaluation only: a whole split of it as our test split, nothing carved.

    Args:
        dataset: As `prepare` takes it.
        task: Recognises what there is to evaluate on.
        split: The source's name; its test split, else its validation split, else its only one when not given.
        dataset_config: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        image_column: Column of the images; inferred when not given.
        target_column: Column of the targets; inferred when not given.
        max_samples: Use at most so many images, drawn by stratum.
        max_image_pixels: Leave out larger images.
        seed: Of that draw.

    Raises:
        DatasetError: It cannot be opened, or too much of it cannot be read.
        SchemaError: Its columns do not say what to learn.
        SplitError: It has no such split.
    """
    opened, inferred, targets = _targets(dataset, task, dataset_config, revision, image_column, target_column)
    labelled = _labelled(inferred, targets)
    _check_asked({"": split}, targets, labelled)
    name = splits.to_evaluate(labelled, split)
    rng = np.random.default_rng(seed)
    seen = _look(opened, inferred, targets, [name], max_samples, max_image_pixels, rng)
    _decode(seen, opened, [name], max_samples, max_image_pixels, rng, looking=False)
    usable = examine.usable(seen, name)
    if not len(usable):
        raise SplitError(f"split {name!r} has no usable row: nothing in column {inferred.target_column!r} counts")
    of = seen.targets[name]
    part = SplitRows(name, usable, of[usable], whole=len(usable) == len(of))
    others = tuple(other for other in opened.splits if other != name)
    return _described(opened, seen, Splits({"test": part}, ignored=others), max_image_pixels, {})


def _look(
    opened: Source,
    found: Schema,
    targets: dict[str, np.ndarray],
    names: Sequence[str],
    max_samples: int | None,
    max_pixels: int,
    rng: np.random.Generator,
) -> Looked:
    """See what stands beside the images of some splits, and say what of it cannot be used.

    Where nothing stands there, nothing is looked at yet.
    """
    if not isinstance(found, Examining):
        return Looked(found, targets)

    def decode(name: str, rows: np.ndarray) -> list[BadImage]:
        bad = account.scanned(name, opened.splits[name], found.image_column, rows, max_pixels, looking=True)
        _check_some(name, rows, bad)
        return bad

    seen = examine.look(opened, found, targets, names, decode, max_samples, max_pixels, rng)
    for name, bad in seen.bad.items():
        faulty = [image for image in bad if image.beside]
        if faulty:
            numbers = listing(image.row for image in faulty)
            log.info(f"left out: {len(faulty)} images of {name!r} for what stands beside them, rows {numbers}")
            for line in account.reasons(faulty):
                log.info(line)
    return seen


def _decode(
    seen: Looked,
    opened: Source,
    names: Sequence[str],
    max_samples: int | None,
    max_pixels: int,
    rng: np.random.Generator,
    looking: bool,
) -> None:
    """Draw and decode the rows of splits that were not looked at yet; `looking` notes what images look like, too."""
    column = seen.schema.image_column
    for name in names:
        if name in seen.rows:
            continue
        of = seen.targets[name]
        rows = seen.schema.draw(of, max_samples, rng)
        bad = account.scanned(name, opened.splits[name], column, rows, max_pixels, looking=looking)
        _check_some(name, rows, bad)
        seen.rows[name], seen.bad[name] = rows, bad
        seen.unlabelled[name] = int((~seen.schema.labelled(of)).sum())


def _described(opened: Source, seen: Looked, made: Splits, max_pixels: int, listed: dict[str, int]) -> LabelledImages:
    """All of it in one, and what it is in words."""
    prepared = LabelledImages(
        opened,
        seen.schema,
        made,
        {name: found for name, found in seen.bad.items() if found},
        {name: count for name, count in seen.unlabelled.items() if count},
        max_pixels,
        listed,
    )
    account.describe(prepared)
    if isinstance(seen.schema, Examining):
        for line in seen.schema.counted({role: part.targets for role, part in made.parts.items()}):
            log.info(line)
    return prepared


def _targets(
    dataset: str | Place | Dataset | DatasetDict | Source,
    task: Reading,
    dataset_config: str | None,
    revision: str | None,
    image_column: str | None,
    target_column: str | None,
) -> tuple[Source, Schema, dict[str, np.ndarray]]:
    """The opened dataset, what it holds, and the targets of every split."""
    opened = dataset if isinstance(dataset, Source) else source.load(dataset, dataset_config, revision)
    if not any(len(split) for split in opened.splits.values()):
        raise DatasetError(f"the dataset is empty: no row in {listing(opened.splits)}")
    try:
        inferred, columns = inspect(opened.splits, task, image_column, target_column, opened.roots)
    except SchemaError as error:
        if not opened.remark:
            raise
        raise SchemaError(f"{opened.remark}: {error}") from error
    opened = guarded(opened, inferred)
    targets = {name: inferred.encode(column) for name, column in columns.items()}
    if not _labelled(inferred, targets):
        raise DatasetError(f"column {inferred.target_column!r} has no labels in any split ({listing(targets)})")
    return opened, inferred, targets


def guarded(opened: Source, found: Schema) -> Source:
    """The dataset with rows that name no file outside of its folders, neither as image nor beside it."""
    made: Source = outside.of_source(opened, found.image_column, *found.columns)
    return made


def _labelled(found: Schema, targets: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name, of in targets.items() if found.labelled(of).any()]


def _listed(path: str | Path | None, targets: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Rows that the user's list leaves out, by split."""
    if path is None:
        return {}
    rows = exclusion.read(Path(path))
    exclusion.check(Path(path), rows, {name: len(of) for name, of in targets.items()})
    return rows


def _check_asked(asked: Mapping[str, str | None], targets: Mapping[str, np.ndarray], labelled: Sequence[str]) -> None:
    """Say why a split that exists cannot be used, where `splits.assign` would say that there is none."""
    for name in asked.values():
        if name is not None and name in targets and name not in labelled:
            state = "has no labels" if len(targets[name]) else "is empty"
            raise SplitError(f"split {name!r} {state}: name another one, of {listing(labelled)}")


def _check_some(split: str, rows: np.ndarray, bad: Sequence[BadImage]) -> None:
    if len(bad) == len(rows):
        raise DatasetError(
            f"no image of the {split!r} split decodes: rows {listing(image.row for image in bad)}. "
            f"Row {bad[0].row}: {bad[0].reason}{f' ({bad[0].path})' if bad[0].path else ''}"
        )


def inspect(
    splits: DatasetDict,
    task: Reading,
    image_column: str | None = None,
    target_column: str | None = None,
    roots: Sequence[str] | None = None,
) -> tuple[Schema, dict[str, Sequence[Any]]]:
    """What a dataset holds, and what stands there to learn in each split; nulls where a split lacks the columns.

    `roots` are the folders in which rows may name files, as `finetune.data.outside.guarded` takes them: a task may look
    at the images for what their targets mean.

    Raises:
        SchemaError: Its columns do not say what to learn, or its splits number their classes differently.
    """
    richest = max(splits.values(), key=lambda split: len(split.column_names))
    found = task.recognise(richest.features, image_column, target_column)
    targets: dict[str, Sequence[Any]] = {}
    columns = (found.image_column, *found.columns)
    for name, split in outside.all_guarded(splits, columns, roots).items():
        if not set(columns) <= set(split.column_names):
            targets[name] = [None] * len(split)
            continue
        found.check_split(name, split.features)
        targets[name] = found.read(split)
    return found.with_values(list(targets.values())), targets
