"""Objects in images: which columns hold them, their classes, the form of their boxes, and how splits are drawn."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.console import log
from finetune.data import class_names, splits
from finetune.data.columns import UNLABELLED, check_named
from finetune.errors import SchemaError, SplitError, listing
from finetune.tasks.detection.reads import boxformat, rows, strata
from finetune.tasks.detection.reads.annotations import ALONE, Raw, placed
from finetune.tasks.detection.reads.columns import Where, find
from finetune.tasks.detection.reads.digest import digest

DETECTION, INSTANCES = "object-detection", "instance-segmentation"


@dataclass(frozen=True)
class DetectionSchema:
    """What a dataset of objects holds.

    Attributes:
        task: `object-detection` or `instance-segmentation`.
        where: The columns.
        classes: Names, in the order of the class indices; known after `with_values`.
        values: What stands as the class of an object, by class index.
        form: Of the boxes, one of `boxformat.FORMATS`; found by `with_values` unless the user says it.
        sure: Whether the dataset is of this task rather than of the other one of the two.
    """

    task: str
    where: Where
    classes: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    form: str = ""
    sure: bool = True
    _index: dict[Any, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def image_column(self) -> str:
        """Of the photographs."""
        return self.where.image

    @property
    def target_column(self) -> str:
        """Of the boxes, or of the masks."""
        return self.where.target

    @property
    def columns(self) -> tuple[str, ...]:
        """All that an object is read from; the declared width and height may be absent elsewhere."""
        return tuple(name for name in self.where.columns if name not in (self.where.size or ()))

    @property
    def explains(self) -> tuple[str, ...]:
        """The columns of the reading, and lists beside boxes."""
        return self.where.explains

    @property
    def index(self) -> Mapping[Any, int]:
        """Class index of what stands as a class."""
        return self._index

    @property
    def with_masks(self) -> bool:
        """Whether objects need a mask."""
        return self.task == INSTANCES

    def numbered(self, classes: Sequence[str]) -> DetectionSchema:
        """The same with the class indices of a model that knows these classes, and perhaps more, by name."""
        places = {name: number for number, name in enumerate(classes)}
        index = {value: places[self.classes[number]] for value, number in self._index.items()}
        return dataclasses.replace(self, classes=tuple(classes), values=(), _index=index)

    def flagged(self, flags: Mapping[str, Any]) -> DetectionSchema:
        """The same with what the flags of the task say: `box_format`.

        Raises:
            SchemaError: The flag contradicts the names of the columns.
        """
        asked = flags.get("box_format")
        if asked is None:
            return self
        if asked not in boxformat.FORMATS:
            raise SchemaError(f"--box-format {asked}: expected one of {', '.join(boxformat.FORMATS)}")
        return dataclasses.replace(self, form=asked)

    def described(self) -> str:
        """For the line that says what was recognised."""
        where = self.where
        what = "boxes" if where.boxes else "masks"
        form = f" ({self.form})" if where.boxes and self.form else ""
        drawn = f" and masks in column {(where.picture or where.outlines[0][0])!r}" if self.with_masks else ""
        drawn = drawn if where.boxes else ""
        classes = "one class" if where.kind == "none" else f"{len(self.classes)} classes" if self.classes else "classes"
        held = f" in {'.'.join(where.classes)!r} ({where.kind})" if where.classes else ""
        names = f": {listing(self.classes, 6)}" if self.classes else ""
        known = f", {classes}{held}{names}" if names or held or where.kind == "none" else ""
        return f"images in column {where.image!r}, {what} in column {where.target!r}{form}{drawn}{known}"

    def declared(self, classes: str | None) -> DetectionSchema:
        """There are no streams of objects.

        Raises:
            SchemaError: Always.
        """
        raise SchemaError(f"--streaming: {self.task} reads its dataset before the training: leave the flag out")

    def check_stream(self, name: str, features: Mapping[str, Any]) -> None:
        """Nothing: `declared` refuses streams."""

    def read(self, split: Dataset) -> Sequence[Raw | None]:
        """Objects of each row as they are written, without their outlines."""
        return rows.read(split, self.where)

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the classes of another split are the same.

        Raises:
            SchemaError: They are not, or it has other columns.
        """
        found = find(features, self.where.image, self.where.target)
        if not found or found[0].names != self.where.names or found[0].kind != self.where.kind:
            names = listing(found[0].names) if found else "none"
            raise SchemaError(
                f"objects of split {name!r} have classes {names}, in another split they are "
                f"{listing(self.where.names) or self.where.kind}: cast all splits to the same features"
            )

    def with_values(self, columns: Sequence[Sequence[Raw | None]]) -> DetectionSchema:
        """The same with the classes that occur, and the form of the boxes; what was found is said.

        Raises:
            SchemaError: There are no objects, their classes are unknown, or the form of their boxes cannot be told.
        """
        found = [raw for column in columns for raw in column if raw is not None]
        if not any(len(raw.labels) for raw in found):
            raise SchemaError(f"column {self.target_column!r} has no object in any split: expected some boxes to learn")
        rows.check_numbers(found)
        names, values = self._classes(found)
        form = self._form(found)
        rows.check_sides(found, form)
        index = {value: number for number, value in enumerate(values)}
        made = dataclasses.replace(self, classes=names, values=values, form=form, _index=index)
        for line in (*self._stuff(found), *rows.left_out(found, form, self.with_masks)):
            log.info(line)
        return made

    def _form(self, found: Sequence[Raw]) -> str:
        """Of the boxes, and the line that says why."""
        where, column = self.where, self.target_column
        if where.boxes is None:
            return "xyxy"
        if self.form or where.boxes.form:
            form = self.form or where.boxes.form
            log.info(f"boxes: {form}, as {'--box-format says' if self.form else 'the names of the columns say'}")
            return form
        evidence = rows.evidence(found)
        form, why = boxformat.decide(evidence, column)
        log.info(f"boxes: {form}, by {len(evidence.boxes)} boxes and the sizes of their images ({why})")
        return form

    def _stuff(self, found: Sequence[Raw]) -> Iterator[str]:
        """A line of the segments that are no things, if there are any."""
        counts = Counter(label for raw in found for label in raw.stuff)
        if counts:
            names = dict(enumerate(self.where.names))
            called = listing((f"{names.get(one, one)} {count}" for one, count in counts.most_common()), 3)
            yield f"left out: {counts.total()} segments of stuff, which is no object ({called})"

    def _classes(self, found: Sequence[Raw]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Names, and what stands for each."""
        seen = {label for raw in found for label in raw.labels}
        kind, column = self.where.kind, self.target_column
        if kind == "none":
            return (ALONE,), (ALONE,)
        if kind == "class-label":
            rows.check_labels(found, set(range(len(self.where.names))), f"0 to {len(self.where.names) - 1}")
            # A list of ids with holes has names for what does not exist.
            stuff = {label for raw in found for label in raw.stuff}
            empty = {n for n, name in enumerate(self.where.names) if name.lower() in ("n/a", "") or n in stuff} - seen
            kept = [n for n in range(len(self.where.names)) if n not in empty]
            return tuple(self.where.names[n] for n in kept), tuple(kept)
        rows.check_labels(found, seen - {None, ""}, "a class")
        values = tuple(sorted(seen))
        if kind == "string":
            return tuple(map(str, values)), values
        log.info(f"column {column!r} has ids of classes without names: they are called class {values[0]}, ...")
        return tuple(f"class {value}" for value in values), values

    def encode(self, column: Sequence[Raw | None]) -> np.ndarray:
        """Objects of each class.

        Args:
            column: As `read` gave it.

        Returns:
            int64 `[len(column), K]`, without crowds; `UNLABELLED` in rows of which nothing is said, and in all where no
            row of a split has an object.
        """
        counts = np.full((len(column), len(self.classes)), UNLABELLED, dtype=np.int64)
        for row, raw in enumerate(column):
            if raw is not None:
                _, outside, empty = placed(raw, self.form)
                usable: Any = ~outside & ~empty & ~raw.crowd & (raw.masked | (not self.with_masks))
                indices = [self.index[raw.labels[n]] for n in np.flatnonzero(usable)]
                counts[row] = np.bincount(indices, minlength=len(self.classes)) if indices else 0
        if not (counts > 0).any():
            counts[:] = UNLABELLED
        return counts

    def digest(self, split: Dataset, rows: np.ndarray) -> str:
        """Of boxes, classes and masks as they are written; see `finetune.task.Marked`."""
        return digest(split, self.columns, rows)

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool `[N]` of int64 `[N, K]`; images without an object are labelled, too."""
        found = np.asarray((targets >= 0).all(axis=1))
        return found

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """The rarest class of each image; K of images without an object."""
        return strata.rarest(targets)

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` labelled images, by their rarest class; int64, ascending."""
        labelled = self.labelled(targets)
        labels = np.full(len(targets), UNLABELLED, dtype=np.int64)
        labels[labelled] = strata.rarest(targets[labelled])
        return splits.subset(labels, size, rng)

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool `[N]`, a share of the images of every class; `keep` images of each stay where it has as many."""
        return strata.carve(targets, fraction, rng, keep)

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Whether there are images to carve from; a class of fewer images than splits is only said.

        Raises:
            SplitError: There are too few images.
        """
        needed = 1 + len(carved)
        with_objects = int((targets > 0).any(axis=1).sum())
        if carved and with_objects < needed:
            raise SplitError(
                f"too few images to hold out {' and '.join(carved)}: expected at least {needed} images with objects, "
                f"got {with_objects}. Add images (or raise --max-samples), or name splits by --val-split and "
                "--test-split"
            )
        images = (targets > 0).sum(axis=0)
        rare = [f"{self.classes[k]!r} ({n})" for k, n in enumerate(images) if 0 < n < needed]
        if carved and rare:
            log.info(f"warning: too few images of {listing(rare)} for each split to have one")

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """Classes without an object, images without one, and how unequal the classes are."""
        objects = targets.sum(axis=0)
        negatives = int((targets == 0).all(axis=1).sum())
        yield f"training: {objects.sum()} objects in {len(targets) - negatives} images, {negatives} images without any"
        absent = [self.classes[k] for k in np.flatnonzero(objects == 0)]
        if absent:
            yield f"warning: no training object of {listing(absent)}; the model cannot learn these classes"
        for line in class_names.remarks(self.classes):
            yield f"warning: {line}"
        if (factor := splits.ratio(objects.tolist())) > 1.5:
            yield f"imbalance: the largest class has {factor:.1f} times the objects of the smallest"

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Objects and images of each class by role, images without an object, the form of the boxes."""
        return {
            "object_counts": {role: of.sum(axis=0).tolist() for role, of in targets.items()},
            "image_counts": {role: (of > 0).sum(axis=0).tolist() for role, of in targets.items()},
            "negatives": {role: int((of == 0).all(axis=1).sum()) for role, of in targets.items()},
            "imbalance_ratio": round(splits.ratio(targets["train"].sum(axis=0).tolist()), 3),
            "box_format": self.form,
        }


def infer(
    task: str, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
) -> DetectionSchema:
    """Find out where a dataset has its objects.

    Args:
        task: `object-detection` or `instance-segmentation`.
        features: Of the dataset.
        image_column: The images' column, where the caller knows it.
        target_column: The boxes' (or masks') column, where the caller knows it.

    Raises:
        SchemaError: There are no objects, or for the latter task no masks.
    """
    check_named(features, image_column, None)
    if target_column is not None and target_column not in features:
        check_named(features, None, target_column)
    found = find(features, image_column, target_column)
    if task == INSTANCES:
        masked = [one for one in found if one.outlines or one.picture]
        if not masked:
            raise SchemaError(_nothing("polygons, run lengths or bitmaps of objects", features))
        return DetectionSchema(task, masked[0])
    boxes = [one for one in found if one.boxes is not None]
    if not boxes:
        raise SchemaError(_nothing("boxes", features))
    # With masks the dataset says more than boxes: it is read as such, unless the user names the task.
    return DetectionSchema(task, boxes[0], sure=not any(one.outlines or one.picture for one in found))


def _nothing(what: str, features: Mapping[str, Any]) -> str:
    return f"no column holds {what}: columns are {listing(features)}. Name it by --target-column"
