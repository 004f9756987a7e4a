"""Several classes an image: in which columns they stand, what they are called, and how splits are drawn by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from finetune.data import class_names, splits
from finetune.data.features import leaves
from finetune.errors import SchemaError, SeveralReadingsError, listing
from finetune.task import Schema
from finetune.tasks.classification import one_hot
from finetune.tasks.classification.schema import DatasetSchema, read_names
from finetune.tasks.multi_label import stratify, values
from finetune.tasks.multi_label.values import UNKNOWN

TASK = "multi-label-classification"
Kind = Literal["class-labels", "classes", "multi-hot", "columns", "struct", "text", "boxes"]

_WRITTEN = {
    "class-labels": "a list of ClassLabel",
    "classes": "a list of classes",
    "multi-hot": "a list of yes or no",
    "columns": "a column of yes or no for each class",
    "struct": "a yes or no for each class",
    "text": "text of several names",
    "boxes": "the classes of boxes",
}
FEW = 3
"""Images of a class that can be in each of three splits."""


@dataclass(frozen=True)
class MultiLabelSchema:
    """What a multi-label dataset holds.

    Targets are int8 `[N, K]`: 1, 0, or -1 where it is not known; a row of nothing but -1 has no label.

    Attributes:
        image_column: Column of the images.
        target_column: Column of the classes; of several columns their names with commas between.
        columns: Them.
        kind: How the classes are written.
        classes: Names, in the order of the targets' columns; empty until the values have been seen.
        known: What stands in lists for each class.
        path: Below the column, names that lead to the classes.
        mark: Between the names of a text.
        sure: Whether columns are known by their types, their names or the user.
        plain: What a column of text is, where each text is one class.
        task: Of a column of text that of `plain`, until its values are known.
        notes: What was odd about the values, a line each.
    """

    image_column: str
    target_column: str
    columns: tuple[str, ...]
    kind: Kind
    classes: tuple[str, ...] = ()
    known: tuple[Any, ...] = ()
    path: tuple[str, ...] = ()
    mark: str = ""
    sure: bool = True
    plain: DatasetSchema | None = None
    notes: tuple[str, ...] = ()
    task: str = TASK

    @property
    def explains(self) -> tuple[str, ...]:
        """The columns themselves."""
        return (*self.columns, self.target_column)

    def described(self) -> str:
        """How many classes, how they are written, and where."""
        if self.plain is not None and not self.mark:
            return self.plain.described()
        where = f"column {self.target_column!r}" if len(self.columns) == 1 else f"{len(self.columns)} columns"
        within = f" ({'.'.join(self.path)})" if self.path else ""
        count = f"{len(self.classes)} classes, several an image, in" if self.classes else "several classes an image in"
        names = f": {listing(self.classes, 6)}" if self.classes else ""
        return f"images in column {self.image_column!r}, {count} {where}{within} ({_WRITTEN[self.kind]}){names}"

    # --- Values

    def read(self, split: Dataset) -> Sequence[Any]:
        """Lists, structs or texts; of several columns, what stands side by side."""
        found = one_hot.rows(split, self.columns)
        if self.kind in ("boxes", "class-labels", "classes"):
            return [values.picked(row, self.path) for row in found]
        return found

    def with_values(self, columns: Sequence[Sequence[Any]]) -> Schema:
        """The classes that occur; or another task's schema, where each row turns out to name one.

        Raises:
            SchemaError: Fewer than two classes, or values that are neither classes nor yes or no.
        """
        rows = [row for column in columns for row in column if row is not None]
        if self.kind == "text":
            return self._of_text(columns)
        if self.kind in ("columns", "struct", "multi-hot") or (self.kind == "classes" and values.is_vector(rows)):
            return self._of_vectors(rows)
        return self._of_sets(rows)

    def _of_text(self, columns: Sequence[Sequence[Any]]) -> Schema:
        mark = values.delimiter((text for column in columns for text in column), self.columns[0])
        if mark is None:
            assert self.plain is not None
            return self.plain.with_values(columns)
        rows = [values.split(text, mark) for column in columns for text in column if not values.is_missing(text)]
        return dataclasses.replace(self, mark=mark, task=TASK)._of_sets(rows)

    def _of_sets(self, rows: Sequence[Sequence[Any]]) -> MultiLabelSchema:
        notes = []
        twice = sum(len(set(map(str, row))) < len(row) for row in rows) if self.kind != "boxes" else 0
        if twice:
            notes.append(f"{twice} images name a class twice: it counts once")
        missing = sum(any(values.is_missing(value) for value in row) for row in rows)
        if missing:
            notes.append(f"warning: {missing} images have a null or empty name among their classes: it is left out")
        found = self
        if not self.classes:
            known = sorted({value for row in rows for value in row if not values.is_missing(value)})
            found = dataclasses.replace(self, known=tuple(known), classes=tuple(map(str, known)))
        return dataclasses.replace(found, notes=tuple(notes))._checked()

    def _of_vectors(self, rows: Sequence[Any]) -> Schema:
        if self.kind == "columns" and not self.classes:
            return self._of_columns(rows)
        names = self.classes or tuple(map(str, range(len(rows[0]) if rows else 0)))
        found = dataclasses.replace(self, kind="multi-hot" if self.kind == "classes" else self.kind, classes=names)
        encoded = found.encode(rows)
        if (encoded == UNKNOWN).any() and not (encoded == 0).any():
            raise SchemaError(
                f"{self._where()} holds 1 and -1, and no 0: -1 is read as unknown, and here it seems to be no. Write 0 "
                "for no first"
            )
        if len(encoded) and (encoded.sum(axis=1) == 1).all() and not (encoded == UNKNOWN).any():
            single = one_hot.OneHotSchema(
                "image-classification", self.image_column, self.target_column, "one-hot", sources=self.columns
            )
            return single.with_values([rows])
        return found._checked()

    def _of_columns(self, rows: Sequence[Any]) -> Schema:
        """Columns of integers, all of which have to be 0 or 1: only their values tell."""
        others = [
            name
            for place, name in enumerate(self.columns)
            if not all(values.is_missing(row[place]) or row[place] in (0, 1, UNKNOWN) for row in rows)
        ]
        if others:
            raise SeveralReadingsError(
                f"{len(self.columns)} columns could hold the classes ({listing(self.columns)}): pick one by "
                f"--target-column; or name those of 0 and 1 with commas between ({listing(others, 3)} has other values)"
            )
        return dataclasses.replace(self, classes=self.columns).with_values([rows])

    def _checked(self) -> MultiLabelSchema:
        if len(self.classes) < 2:
            raise SchemaError(
                f"{self._where()} has {len(self.classes)} class{'' if len(self.classes) == 1 else 'es'} "
                f"({listing(self.classes)}); expected at least 2. Name another column by --target-column"
            )
        return self

    def _where(self) -> str:
        return f"column {'.'.join((self.target_column, *self.path))!r}"

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """int8 `[N, K]`: 1, 0 or -1.

        Raises:
            SchemaError: A class is not declared, or an entry is no yes or no.
        """
        if self.kind in ("columns", "struct", "multi-hot"):
            rows = [list(row.values()) if isinstance(row, Mapping) else row for row in column]
            return values.vectors(rows, len(self.classes), self._where())
        index = {value: place for place, value in enumerate(self.known)}
        rows = list(column)
        if self.kind == "text":
            rows = [None if values.is_missing(text) else values.split(str(text), self.mark) for text in column]
        return values.sets(rows, index, self._where())

    def declared(self, classes: str | None) -> Schema:
        """The same for a stream: the classes that the features name, or those of `--classes`.

        Raises:
            SchemaError: Nothing names them.
        """
        if self.plain is not None:
            return self.plain.declared(classes)
        if classes is not None and not self.classes and self.kind in ("classes", "multi-hot"):
            names = read_names(classes)
            return dataclasses.replace(self, classes=names, known=names)._checked()
        if not self.classes:
            raise SchemaError(
                f"{self._where()} does not declare its classes, and a stream cannot be read twice to find them: give "
                "--classes (their names with commas between, or a file of one name per line)"
            )
        return self._checked()

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the classes of another split are the same, as far as it declares them.

        Raises:
            SchemaError: They are not.
        """
        if self.kind not in ("class-labels", "boxes"):
            return
        column = self.columns[0]
        for leaf in leaves((column,), features[column]):
            names = tuple(getattr(leaf.feature, "names", None) or ())
            if leaf.path[1:] == self.path and names != self.classes:
                raise SchemaError(
                    f"{self._where()} of split {name!r} has classes {listing(names)}, in another split they are "
                    f"{listing(self.classes)}: cast all splits to one ClassLabel (DatasetDict.cast_column)"
                )

    check_stream = check_split

    # --- Rows

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool `[N]`: at least one class is known to be there or not."""
        found: np.ndarray = (targets != UNKNOWN).any(axis=1)
        return found

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """A number for each set of classes."""
        _, numbers = np.unique(targets > 0, axis=0, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` labelled images, each class in its share."""
        rows = np.flatnonzero(self.labelled(targets))
        if size is None or len(rows) <= size:
            return rows
        found: np.ndarray = rows[stratify.draw(self._by_name(targets[rows]), size / len(rows), rng, keep=0)]
        return found

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool `[N]`, a share of every class."""
        return stratify.draw(self._by_name(targets), fraction, rng, keep)

    def _by_name(self, targets: np.ndarray) -> np.ndarray:
        """Columns in the order of the names: how classes are numbered changes no split."""
        order = sorted(range(len(self.classes)), key=lambda place: self.classes[place])
        return targets[:, order]

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Nothing: a class of too few images for all splits is named in `remarks`, and its images serve the others."""

    def counts(self, targets: np.ndarray) -> list[int]:
        """Images that show each class."""
        found: list[int] = (targets > 0).sum(axis=0).tolist()
        return found

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """Oddities of the values; classes in no training image or in all; images without any; what is unknown."""
        yield from self.notes
        counts = np.array(self.counts(targets))
        known = (targets != UNKNOWN).sum(axis=0)
        if absent := [self.classes[i] for i in np.flatnonzero(counts == 0)]:
            yield f"warning: no training image of {listing(absent)}; the model cannot learn these classes"
        if always := [self.classes[i] for i in np.flatnonzero((counts == known) & (known > 0))]:
            yield f"warning: every training image is of {listing(always)}: there is nothing to tell apart"
        if few := [self.classes[i] for i in np.flatnonzero((counts > 0) & (counts < FEW))]:
            yield f"warning: fewer than {FEW} training images of {listing(few)}: they may be missing in other splits"
        for line in class_names.remarks(self.classes):
            yield f"warning: {line}"
        none = int((targets <= 0).all(axis=1).sum())
        each = counts.sum() / max(len(targets), 1)
        yield f"{each:.2f} classes an image; {none} of {len(targets)} training images show none"
        if unknown := int((targets == UNKNOWN).sum()):
            yield f"{unknown} of {targets.size} entries are unknown, and stay out of loss and scores"

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Images that show each class, by role; how unequal classes are; images of none; entries that are unknown."""
        counts = {role: self.counts(of) for role, of in targets.items()}
        return {
            "class_counts": counts,
            "imbalance_ratio": round(splits.ratio(counts["train"]), 3),
            "without_class": {role: int((of <= 0).all(axis=1).sum()) for role, of in targets.items()},
            "unknown": {role: int((of == UNKNOWN).sum()) for role, of in targets.items()},
        }
