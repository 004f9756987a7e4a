"""The images of all roles in one row, and what a page shows of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.data import images
from finetune.data.dataset import LabelledImages


@dataclass(frozen=True)
class Places:
    """All images of a dataset that are used, role after role; a place counts from 0 over all of them.

    Attributes:
        data: The dataset.
        roles: In their order.
        starts: First place of each role, and the number of all images.
    """

    data: LabelledImages
    roles: tuple[str, ...]
    starts: np.ndarray

    @classmethod
    def of(cls, data: LabelledImages) -> Places:
        """Those of a dataset's splits."""
        counts = data.splits.counts()
        return cls(data, tuple(counts), np.cumsum([0, *counts.values()]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def where(self, place: int) -> tuple[str, str, int]:
        """Role, the source's split, and the row there."""
        role, within = self.within(place)
        part = self.data.splits.parts[role]
        return role, part.source, int(part.rows[within])

    def within(self, place: int) -> tuple[str, int]:
        """Role, and place in it."""
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.roles[number], place - int(self.starts[number])

    def pictures(self, places: Sequence[int]) -> list[Image.Image]:
        """Decoded, upright RGB."""
        found = []
        for place in places:
            role, within = self.within(place)
            (value,) = self.data.values(role, [within])
            found.append(images.decode(value, self.data.max_image_pixels))
        return found

    def files(self, places: Sequence[int]) -> list[str]:
        """Names of their files, as far as the dataset says; else empty."""
        names = [name for role in self.roles for name in self._of_role(role)]
        return [names[place] for place in places]

    def _of_role(self, role: str) -> list[str]:
        return self.data.files(role, list(range(len(self.data.splits.parts[role].rows))))


def plain(name: str) -> str:
    """A dataset's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.") or "dataset"
