"""One class an image: which column holds the image, which the class, and the classes' names.

Pure functions of the dataset's features and values; nothing here opens a network or a file but that of `--classes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from finetune.data import class_names, splits
from finetune.data.columns import UNLABELLED
from finetune.errors import SchemaError, SplitError, listing
from finetune.tasks.classification import number_text

TargetKind = Literal["class-label", "integer", "boolean", "string", "float", "one-hot"]


@dataclass(frozen=True)
class DatasetSchema:
    """What a dataset holds.

    Attributes:
        task: Hub's name of the task, for instance `image-classification`.
        image_column: Column of the images.
        target_column: Column of the classes.
        target_kind: How the classes are written there.
        classes: Names, in the order of the class indices; empty until the values have been seen, see `with_values`.
        values: What stands in the column for each class; the class index itself for a ClassLabel.
        sure: Whether the column is known by its type, its name or the user, and not because there is no other.
        asked: Whether the user named the task; else many numbers written as text are not taken for classes.
        strict: Whether a value that is none of the classes is an error: of a stream not all values have been seen.
    """

    task: str
    image_column: str
    target_column: str
    target_kind: TargetKind
    classes: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    sure: bool = True
    asked: bool = True
    strict: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The target's."""
        return (self.target_column,)

    @property
    def explains(self) -> tuple[str, ...]:
        """The target; not text, which may name several classes with a delimiter between: its values tell."""
        return () if self.target_kind == "string" else (self.target_column,)

    def read(self, split: Dataset) -> Sequence[Any]:
        """The values of the target column."""
        values: Sequence[Any] = split[self.target_column][:]
        return values

    def with_values(self, columns: Iterable[Sequence[Any]]) -> DatasetSchema:
        """The same schema, with the classes that occur in the target columns of all splits.

        Args:
            columns: The values of the target column of each split.

        Raises:
            SchemaError: Fewer than two classes.
        """
        schema = self
        if self.target_kind != "class-label":
            splits = [{_plain(value) for value in column} for column in columns]
            # A split of nothing but -1 is one without labels, also where -1 is no ClassLabel's.
            seen = {value for split in splits if not split <= {UNLABELLED, None} for value in split}
            values = tuple(sorted(self._class_of(value) for value in seen if not _is_missing(value)))
            schema = dataclasses.replace(self, values=values, classes=tuple(str(value) for value in values))
            if self.target_kind == "string" and not self.asked:
                number_text.check(self.target_column, schema.classes)
        if len(schema.classes) < 2:
            raise SchemaError(
                f"column {self.target_column!r} has {len(schema.classes)} class"
                f"{'' if len(schema.classes) == 1 else 'es'} ({listing(schema.classes)}); expected at least 2. "
                "Name another column by --target-column"
            )
        return schema

    def _class_of(self, value: Any) -> Any:
        """A value as its class is called; 3.0, of a column of floats, is the same as 3."""
        if self.target_kind != "float":
            return value
        if not float(value).is_integer():
            raise SchemaError(
                f"column {self.target_column!r} has floats such as {value:g}; expected one class per image, which "
                "floats are only as whole numbers. Name another column by --target-column, or learn the number by "
                "--task image-regression"
            )
        return int(value)

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Class indices of a target column.

        Args:
            column: Values as they stand in the dataset.

        Returns:
            int64 `[len(column)]`; `UNLABELLED` where there is no label (null, NaN, or -1 of a ClassLabel).

        Raises:
            SchemaError: A value is none of a stream's classes.
        """
        index = {value: i for i, value in enumerate(self.values)}
        found = np.array([index.get(_plain(value), UNLABELLED) for value in column], dtype=np.int64)
        if self.strict:
            self._check_known([column[row] for row in np.flatnonzero(found == UNLABELLED).tolist()])
        return found

    def _check_known(self, others: Sequence[Any]) -> None:
        for value in others:
            if not (_is_missing(value) or value == UNLABELLED):
                raise SchemaError(
                    f"column {self.target_column!r} holds {value!r}, which is none of the {len(self.classes)} classes: "
                    "give all of them by --classes"
                )

    def described(self) -> str:
        """For the line that says what was recognised."""
        where = f"column {self.target_column!r} ({self.target_kind})"
        if not self.classes:
            return f"images in column {self.image_column!r}, classes in {where}"
        return (
            f"images in column {self.image_column!r}, {len(self.classes)} classes in column {self.target_column!r} "
            f"({self.target_kind}): {listing(self.classes, 6)}"
        )

    def declared(self, classes: str | None) -> DatasetSchema:
        """The same schema with the classes of a stream.

        Args:
            classes: What `--classes` says: a number, names with commas between, or a file of one name per line.

        Raises:
            SchemaError: The column does not declare them, and nothing or something unfit is given.
        """
        if self.target_kind == "class-label":
            if classes is not None:
                raise SchemaError(
                    f"--classes: column {self.target_column!r} names its {len(self.classes)} classes itself: leave it "
                    "out"
                )
            return dataclasses.replace(self.with_values([]), strict=True)
        if classes is None:
            raise SchemaError(
                f"column {self.target_column!r} ({self.target_kind}) does not declare its classes, and a stream "
                "cannot be read twice to find them: give --classes (their number, their names with commas between, or "
                "a file of one name per line)"
            )
        names = read_names(classes)
        values: tuple[Any, ...] = names
        if self.target_kind in ("integer", "float"):
            values = tuple(range(len(names)))
        elif self.target_kind == "boolean":
            values = (False, True)
        if len(names) < 2 or len(names) != len(values) or len(set(names)) < len(names):
            raise SchemaError(f"--classes: expected at least 2 different classes, for booleans 2, got {listing(names)}")
        return dataclasses.replace(self, classes=names, values=values, strict=True)

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the classes of another split are the same.

        Raises:
            SchemaError: They are not.
        """
        names = getattr(features[self.target_column], "names", ())
        if tuple(names) != self.classes:
            raise SchemaError(
                f"column {self.target_column!r} of split {name!r} has classes {listing(names)}, in another split they "
                f"are {listing(self.classes)}: cast all splits to one ClassLabel (DatasetDict.cast_column)"
            )

    def check_stream(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the classes of another split of a stream are the same, as far as it declares them.

        Raises:
            SchemaError: They are not.
        """
        names = getattr(features[self.target_column], "names", ())
        if self.target_kind == "class-label" and tuple(names) != self.classes:
            raise SchemaError(
                f"column {self.target_column!r} of split {name!r} does not have the classes of the training split"
            )

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool `[N]` of int64 `[N]`."""
        found: np.ndarray = targets != UNLABELLED
        return found

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """The class indices themselves."""
        return targets

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` labelled images, each class in its share; int64, ascending."""
        return splits.subset(targets, size, rng)

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool `[N]`, a share of every class; `keep` images of each stay."""
        return splits.carve(targets, fraction, rng, keep)

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Whether every class has enough images to be split.

        Raises:
            SplitError: One has not.
        """
        counts = self.counts(targets)
        needed = 1 + len(carved)
        small = [f"{self.classes[i]!r} ({n})" for i, n in enumerate(counts) if 0 < n < needed]
        if carved and small:
            raise SplitError(
                f"too few images to hold out {' and '.join(carved)}: every class needs at least {needed} images, not "
                f"{listing(small)}. Add images (or raise --max-samples), leave the class out, or name splits by "
                "--val-split and --test-split"
            )

    def counts(self, targets: np.ndarray) -> list[int]:
        """Images of each class."""
        found: list[int] = np.bincount(targets, minlength=len(self.classes)).tolist()
        return found

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """Classes without a training image, names that look like a mistake, and how unequal the classes are."""
        counts = np.array(self.counts(targets))
        absent = [self.classes[i] for i in np.flatnonzero(counts == 0)]
        if absent:
            yield f"warning: no training image of {listing(absent)}; the model cannot learn these classes"
        for line in class_names.remarks(self.classes):
            yield f"warning: {line}"
        present = counts[counts > 0]
        if present.max() > 1.5 * present.min():
            factor = present.max() / present.min()
            yield f"imbalance: the largest class has {factor:.1f} times the images of the smallest"

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Images of each class by role, and how unequal the training classes are."""
        counts = {role: self.counts(of) for role, of in targets.items()}
        return {"class_counts": counts, "imbalance_ratio": round(splits.ratio(counts["train"]), 3)}


def read_names(classes: str) -> tuple[str, ...]:
    """Names of `--classes`: a number, names with commas between, or a file of one name per line.

    Raises:
        SchemaError: It is none of these.
    """
    if classes.isdigit():
        return tuple(str(number) for number in range(int(classes)))
    path = Path(classes).expanduser()
    if "," in classes and not path.is_file():
        return tuple(name.strip() for name in classes.split(","))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"--classes {classes}: expected a number, names with commas between, or a text file of one name per line"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _plain(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value
