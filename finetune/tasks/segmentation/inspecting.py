"""Masks that contradict those of their image's copies, and masks without anything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Image
from PIL import Image as PILImage

from finetune.data import images
from finetune.data.beside.meaning import turned_size
from finetune.data.checks.findings import Finding
from finetune.data.dataset import LabelledImages
from finetune.tasks.segmentation import masks
from finetune.tasks.segmentation.answering import palette
from finetune.tasks.segmentation.masks import VOID

SIDE = 128
"""Of the masks that are compared."""
SAME = 0.7
"""Mean IoU over the classes of two copies' masks below which they contradict; outlines that differ by a few pixels of
small objects cost less."""
NAMED = 3
SHOWN, DRAWN = 12, 240
"""Images of a finding, and the width of one in pixels."""


class InspectedMasks:
    """`finetune.data.checks.inspecting.Inspection` of masks.

    Args:
        data: Of a `SegmentationSchema`.
    """

    def __init__(self, data: LabelledImages) -> None:
        self.data = data
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, place: int) -> np.ndarray:
        """uint8 `[SIDE, SIDE]`, class indices and `VOID`."""
        role, within = self.data.located(place)
        part, schema = self.data.splits.parts[role], self._schema
        columns = [schema.image_column, schema.target_column]
        row = self._encoded(part.source, columns)[int(part.rows[within])]
        with images.opened(row[columns[0]], self.data.max_image_pixels) as image:
            turn = images.turn_of(image)
            size = turned_size(image.size, turn)
        mask = masks.decode(row[columns[1]], schema.meaning, size, turn, self.data.max_image_pixels)
        small = PILImage.fromarray(mask).resize((SIDE, SIDE), PILImage.Resampling.NEAREST)
        return np.asarray(small)

    @property
    def _schema(self) -> Any:
        return self.data.schema

    def _encoded(self, source: str, columns: list[str]) -> Any:
        split = self.data.source.splits[source].select_columns(columns)
        for column in columns:
            split = split.cast_column(column, Image(decode=False))
        return split

    def differ(self, first: int, second: int, mirrored: bool) -> bool:
        """Whether the masks agree in less than they should; what is void in one says nothing."""
        ours, theirs = self.of(first), self.of(second)
        theirs = theirs[:, ::-1] if mirrored else theirs
        known = (ours != VOID) & (theirs != VOID)
        present = np.union1d(ours[known], theirs[known])
        shares = [
            ((ours == label) & (theirs == label) & known).sum() / (((ours == label) | (theirs == label)) & known).sum()
            for label in present
        ]
        return bool(shares) and float(np.mean(shares)) < SAME

    def named(self, place: int) -> str:
        """`background 88 %, nucleus 12 %`, by the pixels that splits are drawn by."""
        role, within = self.data.located(place)
        pixels = self.data.splits.parts[role].targets[within]
        order = np.argsort(-pixels, kind="stable")[:NAMED]
        total = max(1, int(pixels.sum()))
        return ", ".join(f"{self.data.schema.classes[k]} {100 * pixels[k] / total:.0f} %" for k in order if pixels[k])

    def drawn(self, place: int, picture: PILImage.Image) -> PILImage.Image:
        """With its classes' colours over it."""
        pixels = np.asarray(picture.resize((DRAWN, round(DRAWN * picture.height / picture.width) or 1)))
        mask = PILImage.fromarray(self.of(place)).resize(pixels.shape[1::-1], PILImage.Resampling.NEAREST)
        return PILImage.fromarray(palette.overlaid(pixels, np.asarray(mask), len(self.data.schema.classes)))

    def findings(self) -> Iterator[Finding]:
        """Masks of one class alone, where most have several."""
        pixels = np.concatenate([part.targets for part in self.data.splits.parts.values()])
        alone = np.flatnonzero((pixels > 0).sum(axis=1) == 1)
        if 0 < len(alone) < len(pixels) / 2:
            title = f"{len(alone)} masks of {len(pixels):,} with one class alone: is nothing there, or nothing drawn?"
            yield Finding("mask-alone", "warning", title, images=tuple((int(place),) for place in alone[:SHOWN]))
