"""A class a pixel: which columns hold the image and its mask, and what the values in masks mean.

Pure functions of the features, until `SegmentationSchema.examined` has the masks looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from finetune.data import class_names, source
from finetune.data.beside import names, palettes
from finetune.data.beside.counts import MaskCounts, count
from finetune.data.beside.meaning import Meaning, Understood, frame_of, turned_size, understand
from finetune.data.beside.names import Names
from finetune.data.beside.pixels import channels
from finetune.data.columns import check_named, is_image, is_mask_name, the_image, type_name
from finetune.data.features import is_list_of_classes
from finetune.data.splits import ratio
from finetune.errors import SchemaError, SeveralReadingsError, SplitError, listing
from finetune.examining import Examined
from finetune.tasks.segmentation import strata
from finetune.tasks.segmentation.masks import VOID

TASK = "semantic-segmentation"

_NAMES_COLUMNS = ("semantic_class_to_id", "class_to_id", "label2id")
_SHOWN = 20  # classes in a line


@dataclass(frozen=True)
class SegmentationSchema:
    """What a dataset of masks holds.

    Targets are int64 `[N, K]`, pixels of each class in each mask: for splits and counts. The masks themselves are read
    with the images.

    Attributes:
        task: Hub's name of the task.
        image_column: Column of the images.
        target_column: Column of the masks.
        classes: Names, in the order of the class indices; empty until the masks have been looked at.
        meaning: Of the values in masks, once they have been looked at.
        names: Of the values, where the features declare them.
        names_column: Column with a dict of name and value in each row, where there is one.
        explains: Columns that say again what the masks say, or name their classes.
        sure: Always: a column of images that is called as masks are, or that the user names.
        mask_colors: What the flag says.
        ignore_classes: What the flag says.
        lines: How the masks were read, to print.
    """

    image_column: str
    target_column: str
    task: str = TASK
    classes: tuple[str, ...] = ()
    meaning: Meaning | None = None
    names: Names | None = None
    names_column: str | None = None
    explains: tuple[str, ...] = ()
    sure: bool = True
    mask_colors: str | None = None
    ignore_classes: str | None = None
    lines: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The masks'."""
        return (self.target_column,)

    def described(self) -> str:
        """For the line that says what was recognised."""
        classes = f", {len(self.classes)} classes: {listing(self.classes, 6)}" if self.classes else ""
        return f"images in column {self.image_column!r}, masks in column {self.target_column!r}{classes}"

    def flagged(self, flags: Mapping[str, Any]) -> SegmentationSchema:
        """The same with `--mask-colors` and `--ignore-classes`."""
        return dataclasses.replace(
            self, mask_colors=flags.get("mask_colors"), ignore_classes=flags.get("ignore_classes")
        )

    def with_values(self, columns: Sequence[Sequence[Any]]) -> SegmentationSchema:
        """Itself: which rows have a mask says nothing of the classes."""
        return self

    def declared(self, classes: str | None) -> SegmentationSchema:
        """There are no streams of masks.

        Raises:
            SchemaError: Always.
        """
        raise SchemaError(
            "masks are looked at before the training, to count their classes, and a stream is read while it trains: "
            f"leave out --streaming, which {TASK} does not have"
        )

    def read(self, split: Dataset) -> Sequence[bool]:
        """Which rows have a mask."""
        values = split.with_format("arrow").select_columns([self.target_column])
        found: list[bool] = []
        for table in values.iter(batch_size=1000):
            column = table.column(self.target_column)
            there = [pc.is_valid(pc.struct_field(column, name)) for name in ("bytes", "path")]
            found += pc.or_(*there).to_pylist()
        return [bool(there) for there in found]

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the masks of another split are images, and named alike.

        Raises:
            SchemaError: They are not.
        """
        if not is_image(features[self.target_column]):
            kind = type_name(features[self.target_column])
            raise SchemaError(
                f"column {self.target_column!r} of split {name!r} has type {kind}; expected masks, as in another split"
            )

    def check_stream(self, name: str, features: Mapping[str, Any]) -> None:
        """Nothing: `declared` has refused it."""

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """int64 `[N, 1]`, 1 of rows that have a mask; what is in them `examined` tells."""
        return np.array([bool(there) for there in column], dtype=np.int64).reshape(-1, 1)

    def examined(self, opened: Any, rows: Mapping[str, np.ndarray], max_pixels: int) -> Examined:
        """Count the values in masks, and tell what they mean.

        Raises:
            SchemaError: Nothing tells what they mean, or they are one class.
        """
        looked = {
            split: count(opened.splits[split], self.image_column, self.target_column, of, max_pixels)
            for split, of in rows.items()
        }
        every = [mask for masks, _ in looked.values() for mask in masks if frame_of(mask) != "neither"]
        if not every:
            _, bad = next(iter(looked.values()))
            raise SchemaError(
                f"no mask in column {self.target_column!r} can be read"
                + (f": row {bad[0].row}: {bad[0].reason}" if bad else "")
            )
        said = understand(every, self._names(opened), self._palette(opened), self.ignore_classes)
        known = dataclasses.replace(self, classes=said.classes, meaning=said.meaning, lines=said.lines)
        targets, faults = {}, {}
        for split, whole in opened.splits.items():
            masks, bad = looked.get(split, ([], []))
            faults[split] = {image.row: image.reason for image in bad} | _faults(masks, said)
            targets[split] = _pixels(masks, said, len(whole), faults[split])
        return Examined(known, targets, faults)

    def _names(self, opened: Any) -> Names | None:
        if self.names_column is not None:
            split = next(split for split in opened.splits.values() if self.names_column in split.column_names)
            return names.of_rows(split, self.names_column)
        path = source.beside(opened, (*names.FILES, names.CARD))
        if path is not None and path.name != names.CARD:
            return names.of_file(path)
        if self.names is not None or path is None:
            return self.names
        return names.of_card(path, opened.config)

    def _palette(self, opened: Any) -> dict[int, str] | None:
        if self.mask_colors is not None:
            return palettes.read(self.mask_colors)
        path = source.beside(opened, palettes.FILES)
        return None if path is None else palettes.read_file(path)

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool `[N]`, masks with a pixel of any class."""
        return np.asarray((targets > 0).any(axis=1))

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """int64 `[N]`, of each mask the class in it that the fewest masks have; -1 of none."""
        return strata.rarest(targets)

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` masks, the rarest class in each in its share; int64, ascending."""
        return strata.draw(targets, size, rng)

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool `[N]`, a share of the masks that has its share of every class, rare ones first."""
        return strata.carve(targets, fraction, rng, keep)

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Whether there are enough images to be split; a class with too few is remarked on.

        Raises:
            SplitError: There are not.
        """
        needed = 1 + len(carved)
        if len(targets) < needed:
            raise SplitError(
                f"too few images to hold out {' and '.join(carved)}: {len(targets)} with a mask, {needed} are needed; "
                "add images (or raise --max-samples), or name splits by --val-split and --test-split"
            )

    def counted(self, targets: Mapping[str, np.ndarray]) -> Iterator[str]:
        """How the masks were read, and the share of each class in the pixels of each split."""
        yield from self.lines
        shares = {role: of.sum(axis=0) / max(int(of.sum()), 1) for role, of in targets.items()}
        texts = (
            f"{name} {' / '.join(f'{100 * of[index]:.3g}' for of in shares.values())}"
            for index, name in enumerate(self.classes)
        )
        yield f"pixels by class, % of {' / '.join(shares)}: {listing(texts, _SHOWN)}"

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """Classes that no training mask has, or few, names that look like a mistake, and how unequal they are."""
        present = (targets > 0).sum(axis=0)
        if absent := [self.classes[index] for index in np.flatnonzero(present == 0)]:
            yield f"warning: no pixel of {listing(absent)} in a training mask; the model cannot learn these classes"
        if few := [f"{self.classes[i]} ({present[i]})" for i in np.flatnonzero((present > 0) & (present < 3))]:
            yield f"warning: fewer than 3 training images with {listing(few)}"
        for line in class_names.remarks(self.classes):
            yield f"warning: {line}"
        pixels = targets.sum(axis=0)
        if ratio(pixels.tolist()) > 1.5:
            yield f"imbalance: the largest class has {ratio(pixels.tolist()):.1f} times the pixels of the smallest"

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Pixels of each class by role, images that have it, how unequal they are, and what values in masks mean."""
        pixels = {role: of.sum(axis=0).tolist() for role, of in targets.items()}
        images = {role: (of > 0).sum(axis=0).tolist() for role, of in targets.items()}
        return {
            "class_counts": pixels,
            "class_images": images,
            "imbalance_ratio": round(ratio(pixels["train"]), 3),
            "masks": dataclasses.asdict(self.meaning) if self.meaning else None,
        }

    def remembered(self, facts: Mapping[str, Any]) -> SegmentationSchema:
        """With the classes of a run, and what values in masks meant there."""
        masks = facts["masks"]
        lists = {name: tuple(masks[name]) for name in ("values", "indices")}
        return dataclasses.replace(self, classes=tuple(facts["classes"]), meaning=Meaning(**masks | lists))


def _faults(masks: Sequence[MaskCounts], said: Understood) -> dict[int, str]:
    """Why masks cannot be used, by row: another size than the image, a value that nothing names."""
    faults = {}
    for mask in masks:
        if frame_of(mask) == "neither":
            width, height = turned_size(mask.image_size, mask.turn)
            faults[mask.row] = (
                f"its mask is {mask.size[0]} x {mask.size[1]} pixels and the image {width} x {height}: expected one "
                "size; resize the mask without interpolation, or find the right one"
            )
            continue
        values = said.meaning.reduced(np.array(mask.values), mask.colours).tolist()
        if unnamed := sorted(set(values) & said.unnamed):
            colour = said.meaning.kind == "colour"
            shown = [",".join(map(str, channels(value))) if colour else str(value) for value in unnamed]
            remedy = "add it there" if colour else f"add it there, or leave it out by --ignore-classes {shown[0]}"
            faults[mask.row] = f"{listing(shown, 5)} in its mask has no name in {said.where}: {remedy}"
    return faults


def _pixels(masks: Sequence[MaskCounts], said: Understood, count: int, faults: Mapping[int, str]) -> np.ndarray:
    """int64 `[count, K]`, pixels of each class in the masks without a fault."""
    targets = np.zeros((count, len(said.classes)), dtype=np.int64)
    for mask in masks:
        if mask.row in faults:
            continue
        indices = said.meaning.of(np.array(mask.values), mask.colours)
        classes = indices != VOID
        np.add.at(targets[mask.row], indices[classes], np.array(mask.counts)[classes])
    return targets


def infer(
    features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
) -> SegmentationSchema:
    """Find the images and their masks.

    Args:
        features: Of the dataset.
        image_column: The images' column, where the caller knows it.
        target_column: The masks' column, where the caller knows it.

    Raises:
        SeveralReadingsError: Several columns could hold the masks.
        SchemaError: None does.
    """
    check_named(features, image_column, target_column)
    if target_column is not None and not is_image(features[target_column]):
        raise SchemaError(
            f"column {target_column!r} has type {type_name(features[target_column])}; expected masks, which are images"
        )
    others = {name: feature for name, feature in features.items() if name != target_column}
    image_column = image_column or the_image(others if target_column else features)
    named = [name for name, f in features.items() if is_image(f) and is_mask_name(name) and name != image_column]
    found = [target_column] if target_column else named
    if not found:
        pictures = [name for name, feature in features.items() if is_image(feature)]
        raise SchemaError(
            f"no column of masks: image columns are {listing(pictures)}; name the masks' by --target-column"
        )
    if len(found) > 1:
        raise SeveralReadingsError(
            f"{len(found)} columns could hold the masks ({listing(found)}): pick one by --target-column"
        )
    names_column = next((name for name in _NAMES_COLUMNS if name in features), None)
    listed = [name for name, feature in features.items() if is_list_of_classes(name, feature)]
    explains = (found[0], *(name for name in (names_column, *listed) if name is not None))
    return SegmentationSchema(
        image_column, found[0], names=names.of_feature(features), names_column=names_column, explains=explains
    )


class _Reading:
    """`finetune.task.Reading` of this task."""

    recognise = staticmethod(infer)


READING = _Reading()
