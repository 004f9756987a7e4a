"""Classes of unequal size: how unequal they are, and what the training can do about it.

Three remedies, of which one is taken at a time. Validation and test never know of them: their losses are unweighted.

- Class weights: an image of class c counts `w_c = N / (K n_c)`, where the training split has N images, n_c of them of
  class c, and K classes have any (scikit-learn's "balanced"). The loss of a batch is `mean_i(w_i loss_i)` over its
  images, not over its sum of weights as torch's `weight=` has it: the weights are 1 on average over the training split,
  so that each step's gradient is an unbiased estimate of that of the weighted loss of the split, whatever is in the
  batch, and shares of a batch add up. An image is weighted as a whole, after its target was smoothed or mixed; torch
  would weight the classes within the target, and so smooth mostly towards the rare ones.
- Logit adjustment: the logits in the loss are `logits + tau log(pi)`, pi the classes' shares of the training split
  (Menon et al. 2021, https://arxiv.org/abs/2007.07314, equation 10, tau 1). The model itself is not changed.
  Label smoothing e spreads by pi here. Spread uniformly, the best logits of an image of class y would be
  `log(e / (K pi_c))` for each other class c and about `log(1 / pi_y)` for y: a class rarer than e / K of y's images
  would win on every image of y. Spread by pi, all other classes get the same.
- A balanced sampler: see `finetune.loading.sampler.TrainBatches`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.data.splits import ratio
from finetune.networks.linear_probe import LinearProbe

NOTEWORTHY = 3.0
"""Class ratio from which on the remedies are named."""


def summary(counts: Sequence[int], classes: Sequence[str], remedy: str) -> str:
    """One line that says how unequal the training classes are, with the flag to try where that matters.

    Args:
        counts: Training images of each class.
        classes: Their names.
        remedy: The remedy chosen, or `none`.
    """
    present = {name: count for name, count in zip(classes, counts, strict=True) if count}
    if not present:
        return "class ratio: known once the stream has been read"
    large, small = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
    value = ratio(counts)
    text = f"class ratio {value:.3g}:1"
    if value > 1:
        text += f" ({present[large]} training images of {large}, {present[small]} of {small})"
    if len(present) < len(counts):
        text += f"; {len(counts) - len(present)} of {len(counts)} classes have no training image"
    if value < NOTEWORTHY:
        return text
    if remedy != "none":
        return f"{text}; --imbalance {remedy}"
    return f"{text}: if rare classes matter as much as frequent ones, try --imbalance logit-adjustment"


def class_weights(counts: Sequence[int]) -> Tensor:
    """float32 `[K]`: scikit-learn's balanced weights; 0 for a class without images.

    Args:
        counts: Training images of each class.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    present = images > 0
    weights = images.sum() / (present.sum() * images.clamp(min=1))
    return torch.where(present, weights, 0.0).float()


def class_shares(counts: Sequence[int]) -> Tensor:
    """float32 `[K]`: each class's share of the training images; a class without any counts as one, to stay finite.

    Args:
        counts: Training images of each class.
    """
    images = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    return (images / images.sum()).float()


def regression_weights(labels: np.ndarray, num_classes: int, remedy: str) -> Tensor | None:
    """float32 `[K]`: how much an image of each class counts in a regression that does as the training; None: all alike.

    Args:
        labels: int64 `[N]`, classes of the images.
        num_classes: K.
        remedy: A balanced sampler shows the images of each class equally often, which is to weight them.
    """
    weighted = remedy in ("class-weights", "balanced-sampler")
    return class_weights(np.bincount(labels, minlength=num_classes).tolist()) if weighted else None


def unadjusted(probe: LinearProbe, labels: np.ndarray, remedy: str) -> LinearProbe:
    """The probe whose logits, adjusted by the classes' shares, are the given one's: with `logit-adjustment` its loss.

    Args:
        probe: Fitted without adjustment. As its bias has no penalty, it takes up any shift of the logits.
        labels: int64 `[N]`, classes of the images that it was fitted to.
        remedy: With any other the probe is right as it is.
    """
    if remedy != "logit-adjustment":
        return probe
    shares = class_shares(np.bincount(labels, minlength=len(probe.bias)).tolist())
    return dataclasses.replace(probe, bias=probe.bias - shares.double().log())


class ImbalanceLoss(nn.Module):
    """Mean cross-entropy over the images of a batch, with a remedy for unequal classes.

    Args:
        counts: Training images of each class.
        remedy: `none`, `class-weights`, `logit-adjustment`, or `balanced-sampler` (nothing is left to do in the loss).
        label_smoothing: Share of each target that is spread: over all classes alike, by class shares where logits are
            adjusted by them.
        tau: Strength of the logit adjustment.
    """

    weights: Tensor | None
    shares: Tensor | None

    def __init__(
        self, counts: Sequence[int] = (), remedy: str = "none", label_smoothing: float = 0.0, tau: float = 1.0
    ) -> None:
        super().__init__()
        self.smoothing, self.tau = label_smoothing, tau
        # Not in state dicts: made from the counts again.
        weighted, adjusted = remedy == "class-weights", remedy == "logit-adjustment"
        self.register_buffer("weights", class_weights(counts) if weighted else None, persistent=False)
        self.register_buffer("shares", class_shares(counts) if adjusted else None, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar.

        Args:
            logits: `[B, K]`.
            targets: int64 `[B]`, or shares of classes, float `[B, K]`.
        """
        if self.shares is not None:
            adjusted = logits + self.tau * self.shares.log()
            soft = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1])
            return F.cross_entropy(adjusted, (1 - self.smoothing) * soft.to(adjusted) + self.smoothing * self.shares)
        if self.weights is not None:
            losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.smoothing)
            weights = (targets * self.weights).sum(dim=1) if targets.ndim == 2 else self.weights[targets]
            return (losses * weights).mean()
        return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
