"""A number an image: which column holds the image, which the number; pure functions of features and values.

A column of floats says by its type that it holds numbers. Integers are as likely to be classes, and text is text: these
are numbers only where the user names the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Value

from finetune.data import splits
from finetune.data.columns import UNLABELLED, check_named, is_image, the_image, type_name
from finetune.data.features import never_the_target
from finetune.errors import SchemaError, SeveralReadingsError, SplitError, listing
from finetune.tasks import unread

NumberKind = Literal["float", "integer", "text"]

STRATA = 10
"""Splits are drawn by deciles, where there are enough images."""
FEW_VALUES = 20
"""Different whole numbers up to which a column of floats may as well be classes that pandas made floats of."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class NumberSchema:
    """What a dataset holds.

    Attributes:
        task: Hub's name of the task.
        image_column: Column of the images.
        target_column: Column of the numbers.
        kind: How the numbers are written there.
        asked: Whether the user named the task; else whole numbers are not taken for numbers without a word.
        sure: Always: a guess would have been refused.
    """

    task: str
    image_column: str
    target_column: str
    kind: NumberKind
    asked: bool = True
    sure: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The target's."""
        return (self.target_column,)

    @property
    def explains(self) -> tuple[str, ...]:
        """Nothing but the target."""
        return (self.target_column,)

    @property
    def classes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def described(self) -> str:
        """For the line that says what was recognised, and why."""
        why = {"float": "floats are numbers", "integer": "by --task", "text": "numbers as text, by --task"}
        return f"images in column {self.image_column!r}, numbers in column {self.target_column!r} ({why[self.kind]})"

    def read(self, split: Dataset) -> Sequence[Any]:
        """The values of the target column."""
        values: Sequence[Any] = split[self.target_column][:]
        return values

    def with_values(self, columns: Sequence[Sequence[Any]]) -> NumberSchema:
        """The same, where the values do not say that they are classes.

        Raises:
            SeveralReadingsError: They are few whole numbers in floats, and nobody named the task.
        """
        if self.asked or self.kind != "float":
            return self
        seen = {value for column in columns for value in column if not _missing(value)}
        if 0 < len(seen) <= FEW_VALUES and all(float(value).is_integer() for value in seen):
            shown = listing([f"{value:g}" for value in sorted(seen)], 6)
            raise SeveralReadingsError(
                f"column {self.target_column!r} holds floats, and only {len(seen)} whole numbers ({shown}): they can "
                f"be read as numbers (--task {self.task} --target-column {self.target_column}) or as classes (--task "
                f"image-classification --target-column {self.target_column}). If missing values made floats of "
                "integers, as in pandas, write astype('Int64')"
            )
        return self

    def declared(self, classes: str | None) -> NumberSchema:
        """The same: a stream's numbers need no names.

        Raises:
            SchemaError: `--classes` is given.
        """
        if classes is not None:
            raise SchemaError(f"--classes: column {self.target_column!r} holds numbers, not classes: leave it out")
        return self

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the column of another split holds numbers too.

        Raises:
            SchemaError: It does not.
        """
        feature = features[self.target_column]
        if _kind(feature) is None:
            raise SchemaError(
                f"column {self.target_column!r} of split {name!r} has type {type_name(feature)}; expected numbers, as "
                "in another split"
            )

    def check_stream(self, name: str, features: Mapping[str, Any]) -> None:
        """The same of a stream."""
        self.check_split(name, features)

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Numbers of a target column.

        Args:
            column: Values as they stand in the dataset.

        Returns:
            float32 `[len(column)]`, as models compute; NaN where there is none (null, NaN, empty text).

        Raises:
            SchemaError: A value is infinite, too large, or no number; the message names its row.
        """
        found = np.full(len(column), np.nan, dtype=np.float64)
        for row, value in enumerate(column):
            if not _missing(value):
                found[row] = self._number(row, value)
        return found.astype(np.float32)

    def _number(self, row: int, value: Any) -> float:
        try:
            number = float(value)
        except ValueError as error:
            raise SchemaError(
                f"column {self.target_column!r}, row {row}: expected a number, got {str(value)[:60]!r}: mend the "
                "value, or leave it empty so that the image is left out"
            ) from error
        if not abs(number) <= _LARGEST:
            raise SchemaError(
                f"column {self.target_column!r}, row {row}: expected a finite number that float32 can hold, got "
                f"{value!r}: mend the value, or leave it empty so that the image is left out"
            )
        return number

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool `[N]` of float32 `[N]`."""
        found: np.ndarray = ~np.isnan(targets)
        return found

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """int64 `[N]`: the decile of each number among these, from 0; `UNLABELLED` where there is none."""
        return quantiles(targets, STRATA)

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` labelled images, small and large numbers in their share; int64, ascending."""
        return splits.subset(self.strata(targets), size, rng)

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool `[N]`, a share of every decile; of fewer and wider parts where a share would be less than an image."""
        parts = min(STRATA, round(fraction * len(targets)), len(targets) // (keep + 1))
        return splits.carve(quantiles(targets, max(1, parts)), fraction, rng, keep)

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Whether there is anything to learn, and enough of it to be split.

        Raises:
            SplitError: There are too few images.
            SchemaError: All have the same number.
        """
        needed = 2 + len(carved)
        if len(targets) < needed:
            raise SplitError(
                f"too few images to train on{' and hold out ' if carved else ''}{' and '.join(carved)}: expected at "
                f"least {needed} with a number, got {len(targets)}. Add images (or raise --max-samples)"
            )
        if targets.min() == targets.max():
            raise SchemaError(
                f"column {self.target_column!r} is constant: all {len(targets)} images have the number "
                f"{targets[0]:g}; expected numbers that differ. Name another column by --target-column"
            )

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """How the training numbers are spread, and whether a few of them lie far from all others."""
        low, median, high = np.quantile(targets.astype(np.float64), [0, 0.5, 1])
        sd = targets.std(dtype=np.float64)
        said = f"{low:.4g} to {high:.4g}, median {median:.4g}, standard deviation {sd:.4g}"
        yield f"numbers of the training images: {said}"
        quarter, three = np.quantile(targets.astype(np.float64), [0.25, 0.75])
        far = (targets < quarter - 10 * (three - quarter)) | (targets > three + 10 * (three - quarter))
        if three > quarter and far.any():
            yield (
                f"warning: {int(far.sum())} training images have numbers far from all others (for instance "
                f"{targets[far][0]:g}): a placeholder such as -999 should be left empty"
            )

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """How the numbers are spread, by role."""
        return {"target_column": self.target_column, "numbers": {role: _spread(of) for role, of in targets.items()}}


def _spread(targets: np.ndarray) -> dict[str, float]:
    if not len(targets):
        return {}
    values = targets.astype(np.float64)
    low, median, high = np.quantile(values, [0, 0.5, 1])
    return {
        "min": float(low),
        "median": float(median),
        "max": float(high),
        "mean": float(values.mean()),
        "sd": float(values.std()),
    }


def quantiles(targets: np.ndarray, parts: int) -> np.ndarray:
    """The part of each number when they are put in order and cut into equal parts.

    By rank, so that no part is empty however many numbers are equal; equal ones keep their order.

    Args:
        targets: float `[N]`; NaN where there is no number.
        parts: How many; no more than there are numbers.

    Returns:
        int64 `[N]`, from 0; `UNLABELLED` where there is no number.
    """
    found = np.full(len(targets), UNLABELLED, dtype=np.int64)
    known = np.flatnonzero(~np.isnan(targets))
    order = known[np.argsort(targets[known], kind="stable")]
    found[order] = np.arange(len(order)) * min(parts, max(1, len(order))) // max(1, len(order))
    return found


def _missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def infer(
    features: Mapping[str, Any],
    image_column: str | None = None,
    target_column: str | None = None,
    asked: bool = True,
) -> NumberSchema:
    """Find the column of numbers.

    Args:
        features: Of the dataset.
        image_column: The images' column, where the caller knows it.
        target_column: The numbers' column, where the caller knows it.
        asked: Whether the user named the task; else only floats are numbers.

    Raises:
        SchemaError: There is none.
        SeveralReadingsError: There are several.
    """
    check_named(features, image_column, target_column)
    if not asked and target_column is None:
        unread.refuse(features)
    image_column = image_column or the_image(features)
    target_column = target_column or _find(features, image_column, asked)
    kind = _kind(features[target_column])
    if kind is None or (kind != "float" and not asked):
        hint = "" if kind is None else ", or name the task by --task image-regression"
        raise SchemaError(
            f"column {target_column!r} has type {type_name(features[target_column])}; expected a column of floats: "
            f"name one by --target-column{hint}"
        )
    return NumberSchema("image-regression", image_column, target_column, kind, asked)


def _find(features: Mapping[str, Any], image_column: str, asked: bool) -> str:
    """The one column that can be meant: floats before integers, and text never by itself."""
    kinds = {
        name: _kind(feature)
        for name, feature in features.items()
        if not (name.startswith("__") or name == image_column or is_image(feature) or never_the_target(name))
    }
    for kind in ("float", "integer") if asked else ("float",):
        found = [name for name, of in kinds.items() if of == kind]
        if len(found) == 1:
            return found[0]
        if found:
            raise SeveralReadingsError(
                f"{len(found)} columns could hold the numbers ({listing(found)}): pick one by --task image-regression "
                f"--target-column {found[0]}"
            )
    columns = ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())
    raise SchemaError(
        f"no column holds numbers: columns are {columns}. In a folder of images put a table (train.csv with columns "
        "file_name and value) beside them; else name the column by --target-column"
    )


def _kind(feature: Any) -> NumberKind | None:
    if not isinstance(feature, Value):
        return None
    if feature.dtype.startswith(("float", "double", "decimal")):
        return "float"
    if feature.dtype in ("string", "large_string"):
        return "text"
    return "integer" if feature.dtype.lstrip("u").startswith("int") else None
