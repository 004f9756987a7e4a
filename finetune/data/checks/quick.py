"""What `train` looks for by itself in moments: equal images, and near copies between splits. `doctor` finds the rest.

What images look like is noted when they are checked, so that nothing is decoded for it. Only test and validation
images are compared with those of training, and only the likeliest pairs closely: that is where numbers become untrue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from finetune.data.checks import copies, looks, near
from finetune.data.checks.copies import Copies, Differ
from finetune.data.checks.looks import Looks
from finetune.data.checks.near import Pair
from finetune.data.dataset import LabelledImages
from finetune.text import counted

MOST = 50_000
"""Images up to which equal bytes are looked for: seconds."""
PROVEN = 1_000
"""Pairs that are laid over each other: some twenty seconds at most."""
SMALLEST = 32
"""Pixels of the short side below which different images may look the same."""


def find(data: LabelledImages, differ: Differ | None = None) -> Copies | None:
    """Equal images of all roles, in their order, and near copies between them; None of a stream, and of very many.

    Args:
        data: Of the run.
        differ: See `finetune.data.checks.copies.judged`.
    """
    counts = data.splits.counts()
    if data.facts.get("stream") or not 0 < sum(counts.values()) <= MOST:
        return None
    parts, column = data.splits.parts.values(), data.schema.image_column
    roles = np.array([role for role, count in counts.items() for _ in range(count)])
    targets = np.concatenate([part.targets for part in parts])
    if sum(counts.values()) > looks.MOST:
        hashes = [looks.content_hashes(data.source.splits[part.source], column, part.rows) for part in parts]
        return copies.judged(copies.equal(np.concatenate(hashes), "bytes"), roles, targets, differ)
    seen = looks.joined(
        [looks.look(data.source.splits[part.source], column, part.rows, data.max_image_pixels) for part in parts]
    )
    equal, distinct = copies.equals(seen)
    return copies.judged([*equal, *across(seen, roles, distinct)], roles, targets, differ)


def across(seen: Looks, roles: np.ndarray, distinct: np.ndarray) -> list[Pair]:
    """Near copies of test and validation images in training.

    Args:
        seen: Of N images.
        roles: What each is for.
        distinct: Places to look at, int64: of equal images one for each role.
    """
    usable = distinct[seen.size[distinct].min(axis=1) >= SMALLEST]
    held_out, train = (usable[(roles[usable] == "train") == of_train] for of_train in (False, True))
    pairs, _ = near.between(seen, held_out, train, PROVEN)
    return pairs


def kinds(found: Copies) -> dict[str, int]:
    """Test images that are in train too, by the surest way: `bytes`, `pixels` or `near`.

    An image that is linked to one of training over others counts as near.
    """
    direct: dict[int, str] = {}
    for pair in found.pairs:  # the surest first
        for mine, other in ((pair.first, pair.second), (pair.second, pair.first)):
            if found.roles[mine] == "test" and found.roles[other] == "train":
                direct.setdefault(mine, pair.kind)
    each = [direct.get(place, "near") for place in found.leaked().tolist()]
    return {kind: each.count(kind) for kind in ("bytes", "pixels", "near") if kind in each}


def spelled(counts: Mapping[str, int]) -> str:
    """`5 byte for byte, 2 near copies`."""
    near_copies = "near copy" if counts.get("near") == 1 else "near copies"
    words = {"bytes": "byte for byte", "pixels": "pixel for pixel", "near": near_copies}
    return ", ".join(f"{count} {words[kind]}" for kind, count in counts.items())


def lines(found: Copies) -> Iterator[str]:
    """One line for each kind of thing that was found."""
    advice = "python -m finetune doctor shows them, and copies within a split too"
    if leaked := len(found.leaked()):
        total = int((found.roles == "test").sum())
        yield f"warning: {leaked} of {total} test images are training images too ({spelled(kinds(found))}); {advice}"
    if shared := len(found.leaked("validation")):
        yield f"warning: {shared} validation images are training images too"
    if odd := int(found.contradicting.sum()):
        yield f"warning: {counted(f'{odd} pairs of copies')} with different targets; {advice}"
    if same := int((~found.across & ~found.contradicting).sum()):
        yield f"{same} images are copies of others of their split"


def leaked_places(found: Copies) -> np.ndarray:
    """int64, places within test of images that are in train too."""
    first = int(np.flatnonzero(found.roles == "test")[0])
    return found.leaked() - first
