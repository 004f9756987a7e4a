"""Nearest neighbours on frozen features: nothing is fitted but how many of them vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COUNTS = (1, 3, 5, 10, 20)
"""Numbers of neighbours that are tried."""
TEMPERATURE = 0.07
"""Of the votes: a neighbour of cosine c counts exp(c / TEMPERATURE), as in DINO (Caron et al. 2021) after Wu et al.
2018."""
FLOOR = 1e-3
"""Probability that is spread over all classes, so that no class is impossible."""
_BLOCK = 1024


@dataclass(frozen=True)
class Neighbours:
    """Training images that vote.

    Attributes:
        features: float32 `[N, D]`, centred and of length 1.
        centre: float32 `[D]`.
        labels: int64 `[N]`.
        num_classes: C.
        count: How many vote.
    """

    features: Tensor
    centre: Tensor
    labels: Tensor
    num_classes: int
    count: int

    def logits(self, features: np.ndarray) -> Tensor:
        """float32 `[M, C]`, logarithms of the shares of votes, for features float32 `[M, D]`."""
        return _votes(_scaled(features, self.centre), self.features, self.labels, self.num_classes, [self.count])[0]


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int, counts: Sequence[int] = COUNTS) -> Neighbours:
    """Choose how many neighbours vote, by the accuracy on the training images, each without itself.

    Args:
        features: float32 `[N, D]`.
        labels: int64 `[N]`.
        num_classes: C.
        counts: To choose from; the first of equally good ones.
    """
    centre = torch.from_numpy(np.asarray(features).mean(axis=0))
    ours, targets = _scaled(features, centre), torch.from_numpy(np.asarray(labels, dtype=np.int64))
    usable = [count for count in counts if count < len(targets)] or [1]
    votes = _votes(ours, ours, targets, num_classes, usable, alone=True)
    right = [float((logits.argmax(dim=1) == targets).double().mean()) for logits in votes]
    return Neighbours(ours, centre, targets, num_classes, usable[int(np.argmax(right))])


def nearest(features: np.ndarray, count: int) -> np.ndarray:
    """int64 `[N, count]`: the images most like each, by the cosine of centred features; without itself."""
    ours = _scaled(features, torch.from_numpy(np.asarray(features).mean(axis=0)))
    count = min(count, len(ours) - 1)
    found = []
    for start in range(0, len(ours), _BLOCK):
        alike = ours[start : start + _BLOCK] @ ours.T
        rows = torch.arange(len(alike))
        alike[rows, start + rows] = -2.0
        found.append(alike.topk(count, dim=1).indices)
    return torch.cat(found).numpy()


def _scaled(features: np.ndarray, centre: Tensor) -> Tensor:
    centred = torch.from_numpy(np.array(features)) - centre
    scaled: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return scaled


def _votes(
    queries: Tensor, known: Tensor, labels: Tensor, classes: int, counts: Sequence[int], alone: bool = False
) -> list[Tensor]:
    """Logarithms of shares, float32 `[M, C]`, by count; `alone`: the queries are the known, each without itself."""
    made: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, len(queries), _BLOCK):
        alike = queries[start : start + _BLOCK] @ known.T
        if alone:
            rows = torch.arange(len(alike))
            alike[rows, start + rows] = -2.0
        close, places = alike.topk(min(max(counts), alike.shape[1]), dim=1)
        weights = ((close - close[:, :1]) / TEMPERATURE).exp()
        for number, count in enumerate(counts):
            votes = torch.zeros(len(alike), classes).scatter_add_(1, labels[places[:, :count]], weights[:, :count])
            shares = (1 - FLOOR) * votes / votes.sum(dim=1, keepdim=True) + FLOOR / classes
            made[number].append(shares.log())
    return [torch.cat(parts) for parts in made]
