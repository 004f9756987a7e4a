"""Where a finished model fails: kinds of images, and corrupted ones; bounded in time, on the test split."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Value
from PIL import Image as PILImage
from torch import Tensor, nn

from finetune.commands.trust import looks
from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.evaluation import slices
from finetune.evaluation.comparing import paired
from finetune.evaluation.comparing.judged import Comparing, Judged
from finetune.evaluation.intervals import LEVEL
from finetune.evaluation.slices import Slice
from finetune.loading.corruptions import CORRUPTIONS, STRENGTHS
from finetune.loading.datamodule import ImageRows
from finetune.loading.transforms import Normalize
from finetune.runs.result import RunResult
from finetune.task import Task

CORRUPTED, SLICED = 256, 1000
"""Test images at most that are corrupted, and that are looked at for slices; drawn by stratum."""
SECONDS = 60.0
"""After which no further corruption is begun; where all would take longer, fewer images are corrupted."""
BATCH = 32
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
    asker = _Asker(task, network, len(result.dataset["classes"]), data_config, device)
    judged = task.judged(predictions["test"], result.dataset["classes"]) if isinstance(task, Comparing) else None
    if judged is not None:
        shown = _rows(task, data, places, dict(data_config))
        makers = [functools.partial(asker.pixels, shown, batch) for batch in _starts(len(places))]
        kinds = [*_slices(data, places, judged), *looks.alike(network, makers, device, result.seed)]
        rows = slices.find(judged.values[places], kinds, judged.worth.higher, result.seed)
        found["slices"] = {
            "images": len(places),
            "tried": len(rows),
            "score": judged.worth.key,
            "method": "permutation test, adjusted for all slices (Westfall and Young)",
            "each": [row | {"title": judged.worth.title} for row in rows],
        }
    # In no order: where time is short the first of them stand for all, and files are often sorted by class.
    corrupted = places[rng.permutation(len(places))[:CORRUPTED]]
    found["robustness"] = _robustness(
        task, data, corrupted, asker, dict(data_config), result, time.monotonic() + SECONDS
    )
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
    yield from slices.categories("class", judged.groups[places], judged.names)
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


# --- corruptions ---


def _robustness(
    task: Task,
    data: LabelledImages,
    places: np.ndarray,
    asker: _Asker,
    data_config: dict[str, Any],
    result: RunResult,
    deadline: float,
) -> dict[str, Any]:
    seen = _rows(task, data, places, data_config)
    batches = [seen[batch] for batch in _starts(len(seen))]
    started = time.monotonic()
    started = time.monotonic()
    asker.ask(batches[:1])
    passes = 1 + len(CORRUPTIONS) * len(STRENGTHS)
    room = int((deadline - started) / max(time.monotonic() - started, 1e-9) / passes)
    if room < len(batches):  # a power of two, so that the same machine takes the same again
        batches = batches[: 1 << (max(room, 1).bit_length() - 1)]
    clean, before = asker.ask(batches)
    rows, left_out = [], []
    for strength in STRENGTHS:
        for name, corrupt in CORRUPTIONS.items():
            if time.monotonic() > deadline:
                left_out.append([name, strength])
                continue
            worse = [(corrupt(pixels, strength, place), targets) for place, (pixels, targets) in enumerate(batches)]
            scores, after = asker.ask(worse)
            rows.append({"corruption": name, "strength": strength, "scores": scores, **_lost(before, after, result)})
    first = task.scores[0]
    return {
        "images": sum(len(pixels) for pixels, _ in batches),
        "by": first.key,
        "title": first.title,
        "higher": first.higher,
        "clean": clean,
        "each": rows,
        "left_out": left_out,
    }


def _rows(task: Task, data: LabelledImages, places: np.ndarray, data_config: dict[str, Any]) -> ImageRows:
    """Images as the model sees them, uint8 on the CPU, and their targets."""
    part, inputs = data.splits.parts["test"], task.data_module(data, data_config, workers=0).inputs
    return ImageRows(
        data.encoded("test"),
        data.schema.image_column,
        part.rows[places],
        part.targets[places],
        inputs,
        max_pixels=data.max_image_pixels,
    )


def _starts(count: int) -> list[list[tuple[int, int]]]:
    """What `ImageRows` takes for each batch."""
    return [[(0, i) for i in range(start, min(start + BATCH, count))] for start in range(0, count, BATCH)]


class _Asker:
    """Evaluates a network on batches at hand, in this process alone."""

    def __init__(
        self, task: Task, network: nn.Module, outputs: int, data_config: Mapping[str, Any], device: torch.device
    ) -> None:
        self.task, self.device = task, device
        self.module = task.evaluator(network, outputs).to(device).eval()
        self.normalize = Normalize(data_config["mean"], data_config["std"]).to(device)
        self.classes = outputs

    def pixels(self, rows: ImageRows, batch: list[tuple[int, int]]) -> Tensor:
        """Normalised images on the device."""
        found: Tensor = self.normalize(rows[batch][0].to(self.device))
        return found

    def ask(self, batches: Sequence[tuple[Tensor, Any]]) -> tuple[dict[str, float], Any]:
        """Scores, and the predictions where they are tensors and the task weighs images."""
        module: Any = self.module
        metric = module.scores["test"]
        metric.reset()
        metric.distributed_available_fn = lambda: False  # the other processes of a run are not asked
        said, wanted = [], []
        with torch.inference_mode():
            for number, (pixels, targets) in enumerate(batches):
                moved = targets.to(self.device) if isinstance(targets, Tensor) else targets
                said.append(module.test_step((self.normalize(pixels.to(self.device)), moved), number))
                wanted.append(targets)
        scores = {name: float(value) for name, value in metric.compute().items()}
        if not isinstance(self.task, Comparing) or not all(isinstance(one, Tensor) for one in (*said, *wanted)):
            return scores, None
        found = self.task.collector().kind(torch.cat(said).float().cpu(), torch.cat(wanted).cpu())
        return scores, self.task.judged(found, [str(index) for index in range(self.classes)])


def _lost(before: Judged | None, after: Judged | None, result: RunResult) -> dict[str, Any]:
    """The paired difference to the same images as they are, and its interval."""
    if before is None or after is None:
        return {}
    difference = after.values - before.values
    if before.right is not None and after.right is not None:
        counts = int((after.right & ~before.right).sum()), int((before.right & ~after.right).sum())
        ends = paired.tango(*counts, len(difference))
    else:
        parts = [weights @ difference for weights in paired.draws(len(difference), result.seed)]
        means = np.concatenate(parts) / len(difference)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        ends = float(low), float(high)
    return {"difference": float(difference.mean()), "interval": list(ends)}
