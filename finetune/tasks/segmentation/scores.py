"""From the logits of one image to counts of pixels, and from counts to scores.

Masks are compared at their own full size: logits are scaled up to it, and then the largest is taken. Nothing is kept of
an image but how many pixels of each class were called what, and the logits of a few pixels for the calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from finetune.task import Score
from finetune.tasks.segmentation.network import upscaled

VOID = 255
"""Of a mask: this pixel is not to be learnt, and does not count."""
SCORES = (
    Score("mean_iou", "mean IoU"),
    Score("pixel_accuracy", "pixel accuracy"),
    Score("mean_accuracy", "mean accuracy"),
    Score("macro_dice", "macro Dice"),
    Score("loss", "loss", higher=False),
)
RANKING = (SCORES[0], SCORES[4])
SAMPLED = 16384
"""Numbers kept of an image's logits at most, for the calibration."""
_FEWEST, _MOST = 64, 1024
"""Pixels of an image."""
_BLOCK = 2**25
"""Numbers that are scaled up at a time: 128 MiB in float32."""


@dataclass(frozen=True)
class ImageCounts:
    """What is known of one image's answer.

    Attributes:
        pairs: int64 `[M, 3]`: true class, answered class, how many pixels have both; sorted, none without pixels.
        loss: float64 scalar: sum of the cross-entropies of its pixels, in nats.
        logits: float32 `[P, K]` of some pixels, drawn evenly among those that count.
        targets: int64 `[P]`, of the same.
    """

    pairs: Tensor
    loss: Tensor
    logits: Tensor
    targets: Tensor


def largest(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 `[H, W]`: the class of the largest logit at each pixel.

    Args:
        logits: float32 `[K, h, w]`.
        size: H and W.
    """
    best, found = torch.full(size, -torch.inf, device=logits.device), torch.zeros(size, dtype=torch.uint8)
    found = found.to(logits.device)
    for start, part in _parts(logits, size):
        value, index = part.max(dim=0)
        higher = value > best  # of equals the first class, as argmax has it
        best, found = torch.where(higher, value, best), torch.where(higher, (index + start).to(torch.uint8), found)
    return found


def count(logits: Tensor, target: Tensor) -> ImageCounts:
    """Compare one image's logits with its mask.

    Args:
        logits: float32 `[K, h, w]`.
        target: uint8 `[H, W]`: class indices, and `VOID`.
    """
    classes, (height, width) = len(logits), target.shape
    valid = target != VOID
    true = target[valid].long()
    places = _sampled(len(true), classes).to(logits.device)
    best = torch.full_like(true, -torch.inf, dtype=torch.float32)
    answer, own, total = torch.zeros_like(true), torch.zeros_like(best), torch.zeros_like(best)
    sample = logits.new_zeros(len(places), classes)
    for start, part in _parts(logits, (height, width)):
        values = part[:, valid]  # [k, N]
        sample[:, start : start + len(values)] = values[:, places].T
        value, index = values.max(dim=0) if values.numel() else (values.new_zeros(len(true)), torch.zeros_like(true))
        higher = value > best
        # log sum exp over the classes so far, relative to the largest of them.
        top = torch.maximum(best, value)
        total = total * (best - top).exp() + (values - top).exp().sum(dim=0)
        best, answer = top, torch.where(higher, index + start, answer)
        inside = (true >= start) & (true < start + len(values))
        at = (true - start).clamp(0, len(values) - 1)
        own = torch.where(inside, values.gather(0, at[None])[0], own)
    loss = (total.double().log() + best.double() - own.double()).sum()
    keys, pixels = torch.unique(true * classes + answer, return_counts=True)
    pairs = torch.stack([keys // classes, keys % classes, pixels], dim=1)
    return ImageCounts(pairs, loss, sample, true[places])


def _parts(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Some classes' logits at a time `[k, H, W]`, scaled up, each with its first class: never all of a large image."""
    step = max(1, _BLOCK // (size[0] * size[1]))
    for start in range(0, len(logits), step):
        yield start, upscaled(logits[start : start + step], size)


def _sampled(pixels: int, classes: int) -> Tensor:
    """int64 `[P]`: which of an image's pixels are kept; the same of the same image, wherever it is evaluated."""
    few = min(pixels, max(_FEWEST, min(_MOST, SAMPLED // classes)))
    return torch.randperm(pixels, generator=torch.Generator().manual_seed(0))[:few]


def matrix(pairs: Tensor, classes: int) -> Tensor:
    """int64 `[K, K]`: rows are true classes, columns answered ones.

    Args:
        pairs: int64 `[M, 3]`, see `ImageCounts`; several images' may stand in it.
        classes: K.
    """
    found = torch.zeros(classes * classes, dtype=torch.int64, device=pairs.device)
    return found.index_add_(0, pairs[:, 0] * classes + pairs[:, 1], pairs[:, 2]).view(classes, classes)


def of_counts(right: np.ndarray, true: np.ndarray, answered: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of some sets of images at once, float64 `[R]` each, over the classes that a set's masks show.

    Args:
        right: `[R, K]`: pixels of each class that were answered so.
        true: `[R, K]`: pixels of each class.
        answered: `[R, K]`: pixels that were answered as it.
    """
    present = true > 0
    shown = np.maximum(present.sum(axis=1), 1)
    union = np.maximum(true + answered - right, 1)
    return {
        "mean_iou": np.where(present, right / union, 0).sum(axis=1) / shown,
        "pixel_accuracy": right.sum(axis=1) / np.maximum(true.sum(axis=1), 1),
        "mean_accuracy": np.where(present, right / np.maximum(true, 1), 0).sum(axis=1) / shown,
        "macro_dice": np.where(present, 2 * right / np.maximum(true + answered, 1), 0).sum(axis=1) / shown,
    }


class SegmentationScores(Metric):
    """Scores of all pixels together, each counted once; exact on any number of processes.

    A class that no mask shows is left out of the means, also where it was answered.

    Args:
        num_classes: K.
        options: Of `torchmetrics.Metric`.
    """

    full_state_update = False
    confusion: Tensor
    losses: Tensor

    def __init__(self, num_classes: int, **options: bool) -> None:
        super().__init__(**options)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")
        self.add_state("losses", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Sequence[ImageCounts]) -> None:
        """Add some images."""
        for one in found:
            self.confusion += matrix(one.pairs.to(self.confusion.device), self.num_classes)
            self.losses += one.loss.to(self.losses.device)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name; `loss` is the mean over pixels, in nats."""
        confusion = self.confusion.cpu().numpy()
        counts = (np.diag(confusion)[None], confusion.sum(axis=1)[None], confusion.sum(axis=0)[None])
        found = {name: torch.tensor(value[0], dtype=torch.float64) for name, value in of_counts(*counts).items()}
        return found | {"loss": self.losses.cpu() / max(1, int(confusion.sum()))}
