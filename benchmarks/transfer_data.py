"""The images of transfer.py: carved subsets of a training split, each with its division, and what all are scored on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from finetune.data import splits
from finetune.data.dataset import LabelledImages, prepare
from finetune.tasks import registry

VALIDATION_SHARE = 0.1
"""Of a subset, as `python -m finetune` holds it out where a dataset has no validation split."""
MOST_REST = 1000
"""Images of the training split in no subset that rates are tried on."""


@dataclass(frozen=True)
class Case:
    """A dataset, and how many of its training images are used.

    Attributes:
        dataset: As `python -m finetune` takes it.
        images: So many, validation included; all where it is None.
    """

    dataset: str
    images: int | None

    @classmethod
    def parse(cls, text: str) -> Case:
        """`DATASET` or `DATASET:IMAGES`; a path becomes absolute."""
        found = re.fullmatch(r"(.+?)(?::(\d+))?", text)
        if found is None:
            raise ValueError(f"expected DATASET or DATASET:IMAGES, got {text!r}")
        path = Path(found[1]).expanduser()
        return cls(str(path.resolve()) if path.exists() else found[1], int(found[2]) if found[2] else None)

    @property
    def name(self) -> str:
        """For the table and the results, without folders."""
        return f"{Path(self.dataset).name}:{self.images or 'all'}"


@dataclass(frozen=True)
class Subset:
    """Places in the pool, int64, ascending, disjoint."""

    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class Files:
    """Parquet files of one subset.

    Attributes:
        folder: train.parquet, validation.parquet and test.parquet, which is what is scored.
        sweep: What rates are tried on: never the test images.
        score: test.parquet.
    """

    folder: Path
    sweep: Path
    score: Path


def draw(labels: np.ndarray, images: int, subsets: int) -> tuple[list[Subset], np.ndarray]:
    """Draw subsets, each class in its share, and divide each into train and validation.

    Args:
        labels: Classes of the pool, int64 `[N]`.
        images: Of a subset.
        subsets: How many; each is drawn from the whole pool.

    Returns:
        The subsets, and the places that are in none of them, at most `MOST_REST`, each class in its share.

    Raises:
        ValueError: The pool is too small, or a class has fewer than two images in a subset.
    """
    if images > len(labels):
        raise ValueError(f"{images} training images asked for, there are {len(labels)}: give a smaller number or none")
    drawn, free = [], np.ones(len(labels), dtype=bool)
    for number in range(subsets):
        rng = np.random.default_rng(number)
        chosen = splits.subset(labels, images, rng)
        held = splits.carve(labels[chosen], VALIDATION_SHARE, rng)
        drawn.append(Subset(chosen[~held], chosen[held]))
        free[chosen] = False
    places = np.flatnonzero(free)
    return drawn, places[splits.subset(labels[places], MOST_REST, np.random.default_rng(0))]


@dataclass(frozen=True)
class Rows:
    """Rows of a split of the source."""

    source: str
    rows: np.ndarray


def write(case: Case, subsets: int, score: str, folder: Path) -> list[Files]:
    """Carve a case and write it.

    The test images are the dataset's own test split, else those that `python -m finetune --seed 0` would hold out. The
    pool is what is left of its train split, also what would be held out for validation.

    Args:
        case: What.
        subsets: How many; one where all images are used.
        score: `test`, or `validation-pool`: images of the pool in no subset in place of the test images.
        folder: Where to.

    Raises:
        ValueError: It cannot be carved so; the message says why.
    """
    data = prepare(case.dataset, registry.READING, seed=0)
    divisions, rest = _divide(data, case, subsets)
    if score != "test" and not len(rest.rows):
        raise ValueError(f"--score {score}: {case.name} leaves no image of the pool; give fewer, DATASET:IMAGES")
    part = data.splits.parts["test"]
    scored = Rows(part.source, part.rows) if score == "test" else rest
    written = []
    for number, (train, validation) in enumerate(divisions):
        place = folder / case.name.replace(":", "-") / str(number)
        place.mkdir(parents=True)
        for role, rows in {"train": train, "validation": validation, "test": scored}.items():
            _save(data, rows, place / f"{role}.parquet")
        sweep = place.parent / "rest.parquet" if len(rest.rows) else place / "validation.parquet"
        if number == 0 and len(rest.rows):
            _save(data, rest, sweep)
        written.append(Files(place, sweep, place / "test.parquet"))
    return written


def _divide(data: LabelledImages, case: Case, subsets: int) -> tuple[list[tuple[Rows, Rows]], Rows]:
    """Train and validation of each subset, and the images of the pool that are in none."""
    parts = data.splits.parts
    source = parts["train"].source
    if case.images is None:
        train, validation = (Rows(parts[role].source, parts[role].rows) for role in ("train", "validation"))
        return [(train, validation)], Rows(source, np.empty(0, dtype=np.int64))
    pooled = [parts["train"], *([parts["validation"]] if "validation" in data.splits.held_out else [])]
    rows, labels = (np.concatenate([getattr(part, name) for part in pooled]) for name in ("rows", "targets"))
    order = np.argsort(rows)
    drawn, places = draw(labels[order], case.images, subsets)
    pool = rows[order]
    divisions = [(Rows(source, pool[subset.train]), Rows(source, pool[subset.validation])) for subset in drawn]
    return divisions, Rows(source, pool[places])


def _save(data: LabelledImages, chosen: Rows, path: Path) -> None:
    """Images byte for byte, and classes, in columns `image` and `label`."""
    schema = data.schema
    split = data.source.splits[chosen.source].select(chosen.rows)
    encoded = split.cast_column(schema.image_column, datasets.Image(decode=False))
    images = [{"bytes": v["bytes"] or Path(v["path"]).read_bytes(), "path": None} for v in encoded[schema.image_column]]
    labels = schema.encode(encoded[schema.target_column])
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(schema.classes)))
    datasets.Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features).to_parquet(str(path))
