"""The random choices of a step, which depend on the image and the epoch alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Draws:
    """The random choices of one step, of (entropy, image): the same on any number of processes.

    Args:
        images: float32 `[3, h, w]`, as they come from the loader: what tells one from another.
        entropy: Of the run and the epoch.
    """

    def __init__(self, images: Sequence[Tensor], *entropy: int) -> None:
        said = " ".join(map(str, entropy)).encode()
        self.generators = []
        for image in images:
            sample = image.detach()[:, ::16, ::16].float().contiguous().cpu()
            generator = torch.Generator().manual_seed(zlib.crc32(sample.numpy().tobytes(), zlib.crc32(said)))
            self.generators.append(generator)

    def sample(self, labels: Sequence[Tensor], sampler: Any) -> list[Tensor]:
        """Places of some positives and negatives of each image, as torchvision's sampler takes them, ascending.

        Args:
            labels: For each image `[n]`: above 0 positive, 0 negative, below 0 neither.
            sampler: torchvision's `BalancedPositiveNegativeSampler`, whose numbers count.
        """
        return [self._sample(of_image, sampler, number) for number, of_image in enumerate(labels)]

    def _sample(self, labels: Tensor, sampler: Any, number: int) -> Tensor:
        positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
        most = int(sampler.batch_size_per_image * sampler.positive_fraction)
        chosen = self._few(positive, most, number)
        others = self._few(negative, sampler.batch_size_per_image - len(chosen), number)
        return torch.cat([chosen, others]).sort().values

    def _few(self, places: Tensor, most: int, number: int) -> Tensor:
        order = torch.randperm(len(places), generator=self.generators[number])[:most]
        return places[order.to(places.device)]

    def few(self, places: Sequence[Tensor], most: int) -> list[Tensor]:
        """At most so many of each image's places, ascending."""
        return [self._few(of_image, most, number).sort().values for number, of_image in enumerate(places)]
