"""Corrupted test images: what a finished model says of them, whatever its task; bounded in time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.dataset import LabelledImages
from finetune.evaluation.comparing import paired
from finetune.evaluation.comparing.judged import Comparing, Judged
from finetune.evaluation.intervals import LEVEL
from finetune.loading.corruptions import CORRUPTIONS, STRENGTHS
from finetune.loading.datamodule import ImageRows
from finetune.loading.transforms import Normalize
from finetune.runs.result import RunResult
from finetune.task import Task

LEAST = 16
"""Images at least, however slow a model is: of fewer no score says anything."""
BATCH, FEW = 32, 4
"""Images at a time; and where they have sizes of their own, so that a model looks at them one by one anyway."""
PIXELS = 64_000_000
"""That are held decoded at most: 192 MB."""
Pixels = Tensor | list[Tensor]
"""Images as the model sees them: uint8 `[B, 3, H, W]`, or a list of `[3, h, w]`."""


def rows(task: Task, data: LabelledImages, data_config: dict[str, Any]) -> ImageRows:
    """The test images as the model sees them, uint8 on the CPU, and their targets."""
    found: ImageRows = task.data_module(data, data_config, workers=0).eval_dataloader("test").dataset
    return found


def batch_size(seen: ImageRows, place: int) -> int:
    """How many to take at a time, by whether images have sizes of their own."""
    return FEW if isinstance(seen[[(0, place)]][0], list) else BATCH


def batches(places: np.ndarray, size: int) -> list[list[tuple[int, int]]]:
    """What `ImageRows` takes for each batch of these places, int64 `[N]`."""
    found = places.tolist()
    return [[(0, place) for place in found[start : start + size]] for start in range(0, len(found), size)]


class Asker:
    """Evaluates a network on batches at hand, in this process alone.

    Args:
        task: Of the network.
        network: With the weights to judge.
        result: Of the run.
        data_config: timm's.
        device: Where to compute.
    """

    def __init__(
        self, task: Task, network: nn.Module, result: RunResult, data_config: Mapping[str, Any], device: torch.device
    ) -> None:
        self.task, self.result, self.device = task, result, device
        self.classes = result.dataset["classes"]
        self.module: Any = task.evaluator(network, len(self.classes)).to(device).eval()
        self.normalize = Normalize(data_config["mean"], data_config["std"]).to(device)

    def pixels(self, seen: ImageRows, batch: list[tuple[int, int]]) -> Any:
        """Normalised images on the device."""
        return self.normalised(seen[batch][0])

    def normalised(self, pixels: Pixels) -> Any:
        """On the device."""
        if isinstance(pixels, list):
            return [self.normalize(one.to(self.device)) for one in pixels]
        return self.normalize(pixels.to(self.device))

    def ask(self, batches: Sequence[tuple[Pixels, Any]]) -> tuple[dict[str, float], Judged | None]:
        """Scores, and what was said of each image where the task weighs images."""
        metric = self.module.scores["test"]
        metric.reset()
        metric.distributed_available_fn = lambda: False  # the other processes of a run are not asked
        said, wanted = [], []
        with torch.inference_mode():
            for number, (pixels, targets) in enumerate(batches):
                moved = targets.to(self.device) if isinstance(targets, Tensor) else targets
                said.append(self.module.test_step((self.normalised(pixels), moved), number))
                wanted.append(targets)
        scores = {name: float(value) for name, value in metric.compute().items()}
        if not isinstance(self.task, Comparing):
            return scores, None
        names = [str(name) for name in self.classes]
        judged = self.task.judged(self.task.kept(said, wanted), names, self.result.evaluation)
        return scores | judged.once(), judged  # at the run's own thresholds, where a task has some


def robustness(asker: Asker, seen: ImageRows, places: np.ndarray, deadline: float) -> dict[str, Any]:
    """The `robustness` of result.json's `evaluation`.

    Args:
        asker: Of the model.
        seen: The test images.
        places: Which of them to corrupt, int64 `[N]`, in no order: the first stand for all where time is short.
        deadline: By `time.monotonic`, after which no further corruption is begun.
    """
    held = _held(seen, places)
    started = time.monotonic()
    asker.ask(held[:1])
    passes = 1 + len(CORRUPTIONS) * len(STRENGTHS)
    room = int((deadline - started) / max(time.monotonic() - started, 1e-9) / passes)
    if room < len(held):  # a power of two, so that the same machine takes the same again
        held = held[: max(1 << (max(room, 1).bit_length() - 1), LEAST // len(held[0][0]))]
    clean, before = asker.ask(held)
    each, left_out = [], []
    for strength in STRENGTHS:
        for name, corrupt in CORRUPTIONS.items():
            if time.monotonic() > deadline:
                left_out.append([name, strength])
                continue
            worse = [(_all(corrupt, pixels, strength, n), targets) for n, (pixels, targets) in enumerate(held)]
            scores, after = asker.ask(worse)
            lost = _lost(before, after, asker.result.seed)
            each.append({"corruption": name, "strength": strength, "scores": scores, **lost})
    first = asker.task.scores[0]
    found = {"images": sum(len(pixels) for pixels, _ in held), "by": first.key, "title": first.title}
    found |= {"higher": first.higher, "clean": clean, "each": each, "left_out": left_out}
    return found if before is None else found | {"difference_of": before.worth.key}


def _held(seen: ImageRows, places: np.ndarray) -> list[tuple[Pixels, Any]]:
    """Decoded batches of as many of the images as there is memory for."""
    found: list[tuple[Pixels, Any]] = []
    pixels = 0
    for batch in batches(places, batch_size(seen, int(places[0]))):
        found.append(seen[batch])
        pixels += sum(one.shape[-2] * one.shape[-1] for one in found[-1][0])
        if pixels >= PIXELS:
            break
    return found


def _all(corrupt: Callable[[Tensor, int, int], Tensor], pixels: Pixels, strength: int, number: int) -> Pixels:
    """A batch, corrupted: no pixel moves, so that boxes and masks stay what they are.

    Args:
        corrupt: Of `CORRUPTIONS`.
        pixels: Of the batch.
        strength: 1 to 3.
        number: Of the batch; each image of its own size has another seed.
    """
    if isinstance(pixels, list):
        return [corrupt(one[None], strength, number * FEW + place)[0] for place, one in enumerate(pixels)]
    return corrupt(pixels, strength, number)


def _lost(before: Judged | None, after: Judged | None, seed: int) -> dict[str, Any]:
    """The paired difference to the same images as they are, and its interval."""
    if before is None or after is None:
        return {}
    difference = after.values - before.values
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return {}
    if before.right is not None and after.right is not None:
        counts = int((after.right & ~before.right).sum()), int((before.right & ~after.right).sum())
        ends = paired.tango(*counts, len(difference))
    else:
        parts = [weights @ difference for weights in paired.draws(len(difference), seed)]
        means = np.concatenate(parts) / len(difference)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        ends = float(low), float(high)
    return {"difference": float(difference.mean()), "interval": list(ends)}
