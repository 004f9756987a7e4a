"""Where a finished model fails: kinds of images, and corrupted ones; bounded in time, on the test split."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Value
from PIL import Image as PILImage
from torch import nn

from finetune.commands.trust.failing import corrupted, looks
from finetune.commands.trust.failing.corrupted import Asker
from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.evaluation import slices
from finetune.evaluation.comparing.judged import Comparing, Judged
from finetune.evaluation.slices import Slice
from finetune.runs.result import RunResult
from finetune.task import Task

CORRUPTED, SLICED = 256, 1000
"""Test images at most that are corrupted, and that are looked at for slices; drawn by stratum."""
SECONDS = 60.0
"""After which no further corruption is begun; where all would take longer, fewer images are corrupted."""
_LONGEST = 256  # pixels of a side, for brightness and blur


def add(
    result: RunResult,
    predictions: Mapping[str, Any],
    data: LabelledImages,
    network: nn.Module,
    data_config: Mapping[str, Any],
    task: Task,
    device: torch.device,
) -> RunResult:
    """A run's result with `slices`, where the task scores single images, and `robustness` in its `evaluation`.

    Args:
        result: Without them.
        predictions: By role.
        data: Rows at hand, not a stream.
        network: With the exported weights.
        data_config: timm's.
        task: Of the run.
        device: Where to compute.
    """
    rng = np.random.default_rng(result.seed)
    part = data.splits.parts["test"]
    places = data.schema.draw(part.targets, SLICED, rng)
    found: dict[str, Any] = {}
    seen = corrupted.rows(task, data, dict(data_config))
    asker = Asker(task, network, result, data_config, device)
    if isinstance(task, Comparing):
        judged = task.judged(predictions["test"], result.dataset["classes"], result.evaluation)
        size = corrupted.batch_size(seen, int(places[0]))
        makers = [functools.partial(asker.pixels, seen, batch) for batch in corrupted.batches(places, size)]
        kinds = [*_slices(data, places, judged), *looks.alike(task, network, makers, device, result.seed)]
        rows = slices.find(judged.values[places], kinds, judged.worth.higher, result.seed)
        found["slices"] = {
            "images": len(places),
            "tried": len(rows),
            "score": judged.worth.key,
            "method": "permutation test, adjusted for all slices (Westfall and Young)",
            "each": [row | {"title": judged.worth.title} for row in rows],
        }
    # In no order: where time is short the first of them stand for all, and files are often sorted by class.
    some = places[rng.permutation(len(places))[:CORRUPTED]]
    found["robustness"] = corrupted.robustness(asker, seen, some, time.monotonic() + SECONDS)
    return dataclasses.replace(result, evaluation=result.evaluation | found)


# --- slices ---


def _slices(data: LabelledImages, places: np.ndarray, judged: Judged) -> Iterator[Slice]:
    facts = np.array([_facts(value, data.max_image_pixels) for value in data.values("test", places.tolist())])
    words = (
        ("image size", "the smallest quarter", "the largest quarter"),
        ("aspect ratio", "the narrowest quarter", "the widest quarter"),
        ("brightness", "the darkest quarter", "the brightest quarter"),
        ("sharpness", "the most blurred quarter", "the sharpest quarter"),
    )
    for column, (by, low, high) in enumerate(words):
        yield from slices.quarters(by, facts[:, column], low, high)
    yield from slices.memberships("class", judged.shows[places], judged.names)
    yield from _columns(data, places)


def _facts(value: Any, limit: int) -> tuple[float, float, float, float]:
    """Pixels, width over height, mean brightness in [0, 1], and the variance of the Laplacian of the greys."""
    picture = images.decode(value, limit)
    width, height = picture.size
    picture.thumbnail((_LONGEST, _LONGEST), PILImage.Resampling.BILINEAR)
    grey = np.asarray(picture.convert("L"), dtype=np.float64) / 255
    wide = np.pad(grey, 1, mode="edge")
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * grey
    return width * height, width / height, float(grey.mean()), float(laplacian.var())


def _columns(data: LabelledImages, places: np.ndarray) -> Iterator[Slice]:
    """Further columns of the dataset that have few values."""
    part, schema = data.splits.parts["test"], data.schema
    split = data.source.splits[part.source]
    aside = {schema.image_column, *schema.columns, *schema.explains}
    for name, feature in split.features.items():
        plain = isinstance(feature, ClassLabel) or (
            isinstance(feature, Value) and feature.dtype.startswith(("string", "int", "uint", "bool"))
        )
        if name in aside or name.startswith("__") or not plain:
            continue
        values = split.select_columns([name])[part.rows[places].tolist()][name]
        texts = [feature.int2str(v) if isinstance(feature, ClassLabel) and v is not None else str(v) for v in values]
        yield from slices.categories(f"column {name}", np.array(texts))
