"""Training losses of several classes an image: a yes or no for each; what is unknown has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["bce", "asymmetric"]

BOUND = 10.0
"""Largest weight of a positive, and one over the smallest: a class of one image must not be all of the gradient."""


def positive_weights(counts: Sequence[int], known: Sequence[int]) -> Tensor:
    """float32 `[K]`: negatives over positives of each class, within `BOUND`; 1 for a class without any positive.

    Args:
        counts: Training images that show each class.
        known: Training images of which it is known.
    """
    positives = torch.tensor(counts, dtype=torch.float64)
    negatives = torch.tensor(known, dtype=torch.float64) - positives
    weights = (negatives / positives.clamp(min=1)).clamp(1 / BOUND, BOUND)
    return torch.where(positives > 0, weights, torch.ones_like(weights)).float()


class MultiLabelLoss(nn.Module):
    """Mean over images of the mean loss over K classes, in float32; an unknown class adds nothing to its image.

    The mean is over K and not over the known classes: the gradient of a batch is then the sum of those of its parts,
    however they are spread over devices.

    - `bce`: binary cross-entropy.
    - `asymmetric`: `-(1 - p)^1 log(p)` of a positive and `-q^4 log(1 - q)` of a negative, where q is p - 0.05, at least
      0: an easy negative counts little, a very easy one not at all, which is for images that show few of many classes
      (Ridnik et al. 2021, https://arxiv.org/abs/2009.14119, equation 8; gamma+ 1, gamma- 4, m 0.05, as in the authors'
      code). timm's computes in the precision of the logits and switches the gradients of the whole process.

    Args:
        kind: Which.
        weights: float32 `[K]`, of the positives of each class; 1 each when not given.
        label_smoothing: A target moves by half of it towards the other answer.
        gamma_positive: Of `asymmetric`, how much less a positive counts that is easy.
        gamma_negative: The same of a negative.
        margin: Probability up to which a negative counts nothing.
    """

    weights: Tensor | None

    def __init__(
        self,
        kind: Kind = "bce",
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        gamma_positive: float = 1.0,
        gamma_negative: float = 4.0,
        margin: float = 0.05,
    ) -> None:
        super().__init__()
        self.kind, self.smoothing = kind, label_smoothing
        self.gammas, self.margin = (gamma_positive, gamma_negative), margin
        self.register_buffer("weights", weights, persistent=False)  # made from the counts again

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar.

        Args:
            logits: `[B, K]`.
            targets: Shares of yes, float `[B, K]`; NaN where it is not known.
        """
        with torch.autocast(logits.device.type, enabled=False):
            values = logits.double() if logits.dtype == torch.float64 else logits.float()
            known = ~targets.isnan()
            shares = torch.where(known, targets, torch.zeros_like(targets)).to(values)
            shares = shares * (1 - self.smoothing) + self.smoothing / 2
            yes, no = self._bce(values) if self.kind == "bce" else self._asymmetric(values)
            weighted = yes if self.weights is None else yes * self.weights
            each = torch.where(known, shares * weighted + (1 - shares) * no, torch.zeros_like(values))
            return each.mean(dim=1).mean()

    def _bce(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Losses where the answer is yes, and where it is no."""
        return F.softplus(-values), F.softplus(values)

    def _asymmetric(self, values: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.gammas
        shifted = (values.sigmoid() - self.margin).clamp(min=0)
        yes = (-values).sigmoid() ** first * F.softplus(-values)
        return yes, shifted**second * -torch.log1p(-shifted)
