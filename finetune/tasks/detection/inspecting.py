"""Boxes that contradict: of an image and its copies, and of one image among themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL.Image import Image

from finetune.data.checks.findings import Finding
from finetune.data.dataset import LabelledImages
from finetune.tasks.detection.figures import boxes
from finetune.tasks.detection.figures.boxes import Shown
from finetune.tasks.detection.reads import rows
from finetune.tasks.detection.reads.annotations import placed

SAME = 0.5
"""Intersection over union from which on boxes of two copies are of one object, as COCO's easiest."""
TWICE = 0.9
"""From which on two boxes of one image are nearly the same place."""
FILLS = 0.98
"""Share of the image's area from which on a box says little of where its object is."""
TINY = 4.0
"""Pixels of a side below which there is little to find."""
SHOWN, DRAWN = 12, 320
"""Images of a finding, and the longest side of one in pixels."""

Boxes = tuple[np.ndarray, np.ndarray, tuple[int, int]]
"""float64 `[n, 4]`, xyxy in pixels; int64 `[n]` classes; width and height of the image; both upright."""


class InspectedBoxes:
    """`finetune.data.checks.inspecting.Inspection` of boxes; of masks of objects the boxes around them.

    Args:
        data: Of a `DetectionSchema`.
    """

    def __init__(self, data: LabelledImages) -> None:
        self.data, self.schema = data, data.schema
        self.classes = data.schema.classes
        self.of = lru_cache(maxsize=4096)(self._of)

    def _of(self, place: int) -> Boxes:
        role, within = self.data.located(place)
        return self._read(role, [within])[0]

    def _read(self, role: str, places: Sequence[int]) -> list[Boxes]:
        schema: Any = self.schema
        part = self.data.splits.parts[role]
        found = rows.read(self.data.source.splits[part.source].select(part.rows[list(places)]), schema.where)
        made: list[Boxes] = []
        for raw in found:
            if raw is None or raw.frame is None:
                made.append((np.zeros((0, 4)), np.zeros(0, dtype=np.int64), (1, 1)))
                continue
            whole, outside, empty = placed(raw, schema.form)
            keep = np.flatnonzero(~outside & ~empty & ~raw.crowd)
            labels = np.array([schema.index[raw.labels[n]] for n in keep.tolist()], dtype=np.int64)
            made.append((whole[keep].astype(np.float64), labels, raw.frame.upright))
        return made

    def differ(self, first: int, second: int, mirrored: bool) -> bool:
        """Whether a box of the one has none of its class at its place in the other."""
        ours, theirs = (_shares(*self.of(place)) for place in (first, second))
        if mirrored:
            theirs = theirs[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
        labels, others = self.of(first)[1], self.of(second)[1]
        if sorted(labels.tolist()) != sorted(others.tolist()):
            return True
        shared = overlaps(ours, theirs) * (labels[:, None] == others[None, :])
        return bool(len(ours)) and bool((shared.max(axis=0) < SAME).any() or (shared.max(axis=1) < SAME).any())

    def named(self, place: int) -> str:
        """`2 RBC, 1 WBC`."""
        counts = Counter(self.of(place)[1].tolist())
        return ", ".join(f"{count} {self.classes[label]}" for label, count in sorted(counts.items())) or "no object"

    def drawn(self, place: int, picture: Image) -> Image:
        """With its boxes, in the colours of their classes."""
        small = picture.copy()
        small.thumbnail((DRAWN, DRAWN))
        found, labels, _ = self.of(place)
        scaled = found * (small.width / picture.width)
        return boxes.draw(
            small,
            [Shown(box, "", boxes.colour(label)) for box, label in zip(scaled.tolist(), labels.tolist(), strict=True)],
        )

    def findings(self) -> Iterator[Finding]:
        """Boxes of nearly the same place, boxes that fill the image, and tiny ones."""
        every = [one for role, count in self.data.splits.counts().items() for one in self._read(role, range(count))]
        total = sum(len(labels) for _, labels, _ in every)
        kinds: dict[str, list[tuple[int, int]]] = {"classes": [], "twice": [], "fills": [], "tiny": []}
        for place, (found, labels, size) in enumerate(every):
            same = np.triu(overlaps(found, found) >= TWICE, 1)
            apart = labels[:, None] != labels[None, :]
            sides = found[:, 2:] - found[:, :2]
            counts = {
                "classes": int((same & apart).sum()),
                "twice": int((same & ~apart).sum()),
                "fills": int((sides.prod(axis=1) >= FILLS * size[0] * size[1]).sum()),
                "tiny": int((sides.min(axis=1) < TINY).sum()),
            }
            for kind, count in counts.items():
                kinds[kind] += [(count, place)] if count else []
        here = f"at one place (overlap {TWICE:g} and more)"
        titles = {
            "classes": ("warning", f"{{}} pairs of boxes {here} with different classes"),
            "twice": ("warning", f"{{}} pairs of boxes {here} with one class"),
            "fills": (
                "warning",
                f"{{}} of {total:,} boxes fill their image: they say that something is there, not where",
            ),
            "tiny": ("note", f"{{}} of {total:,} boxes have a side below {TINY:g} pixels"),
        }
        for kind, (severity, title) in titles.items():
            yield from _some(f"box-{kind}", severity, title, kinds[kind])


def _shares(whole: np.ndarray, _: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes in shares of the image's sides, so that copies of other sizes can be compared."""
    found: np.ndarray = whole / np.array([*size, *size], dtype=np.float64)
    return found


def overlaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """float64 `[n, m]`, intersection over union of boxes xyxy `[n, 4]` and `[m, 4]`."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(of[:, 2:] - of[:, :2]).prod(axis=1) for of in (ours, theirs)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: np.ndarray = shared / np.maximum(union, 1e-12)
    return found


def _some(key: str, severity: Any, title: str, found: list[tuple[int, int]]) -> Iterator[Finding]:
    """One finding of so many of each place, the most first."""
    if found:
        first = sorted(found, key=lambda one: (-one[0], one[1]))[:SHOWN]
        total = sum(count for count, _ in found)
        lines = (f"in {len(found)} images",)
        yield Finding(key, severity, title.format(f"{total:,}"), lines, tuple((place,) for _, place in first))
