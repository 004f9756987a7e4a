"""What `train` looks for by itself in a moment: images that are there twice, byte for byte. `doctor` finds the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetune.data.checks import copies, looks
from finetune.data.checks.copies import Copies
from finetune.data.dataset import LabelledImages

MOST = 50_000
"""Images up to which this takes seconds."""


def find(data: LabelledImages) -> Copies | None:
    """Equal images of all roles, in their order; None of a stream, and of very many."""
    if data.facts.get("stream") or not 0 < sum(data.splits.counts().values()) <= MOST:
        return None
    hashes = [
        looks.content_hashes(data.source.splits[part.source], data.schema.image_column, part.rows)
        for part in data.splits.parts.values()
    ]
    roles = np.array([role for role, count in data.splits.counts().items() for _ in range(count)])
    targets = np.concatenate([part.targets for part in data.splits.parts.values()])
    return copies.judged(copies.equal(np.concatenate(hashes), "bytes"), roles, targets)


def lines(found: Copies) -> Iterator[str]:
    """One line for each kind of thing that was found."""
    advice = "python -m finetune doctor shows them, and near copies too"
    if leaked := len(found.leaked()):
        total = int((found.roles == "test").sum())
        yield f"warning: {leaked} of {total} test images are training images too, byte for byte; {advice}"
    if shared := len(found.leaked("validation")):
        yield f"warning: {shared} validation images are training images too, byte for byte"
    if odd := int(found.contradicting.sum()):
        yield f"warning: {odd} pairs of equal images have different targets; {advice}"
    if same := int((~found.across & ~found.contradicting).sum()):
        yield f"{same} images are copies of others of their split, byte for byte"


def leaked_places(found: Copies) -> np.ndarray:
    """int64, places within test of images that are in train too."""
    first = int(np.flatnonzero(found.roles == "test")[0])
    return found.leaked() - first
