"""Training batches of images of about the same shape, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.loading.sampler import TrainBatches

WINDOW = 8
"""Batches of the random order that images are sorted over."""


class AspectBatches(TrainBatches):
    """`finetune.loading.sampler.TrainBatches` whose batches hold images of about the same shape.

    The random order of the epoch is cut into windows of 8 batches. Within a window images are sorted by their shape and
    cut into batches again, which come in a random order: so a batch has one shape, and the sequence of shapes is
    random. A resumed run goes on as the others do.

    Args:
        aspects: float `[count]`, a number for the shape of each image.
        count: Images of the training split.
        options: Of `TrainBatches`.
    """

    def __init__(self, aspects: np.ndarray, count: int, *options: Any, **named: Any) -> None:
        super().__init__(count, *options, **named)
        self.aspects = aspects

    def _order(self, epoch: int) -> np.ndarray:
        order = super()._order(epoch)
        rng = np.random.default_rng((self.seed, epoch, WINDOW))
        made = order.copy()
        for first in range(0, len(self.bounds) - 1, WINDOW):
            bounds = self.bounds[first : first + WINDOW + 1]
            window = order[bounds[0] : bounds[-1]]
            window = window[np.argsort(self.aspects[window[:, 1]], kind="stable")]
            places = rng.permutation(len(bounds) - 1)  # of the batches, from tall to wide
            start = 0
            for place in places:
                size = bounds[place + 1] - bounds[place]
                batch = rng.permutation(window[start : start + size])
                made[bounds[place] : bounds[place + 1]] = batch
                start += size
        return made
