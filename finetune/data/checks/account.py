"""What was inferred, what was left out and why: said once, and listed in result.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from finetune.console import log
from finetune.data.checks import looks
from finetune.data.scan import BadImage, scan
from finetune.errors import listing

if TYPE_CHECKING:
    from finetune.data.dataset import LabelledImages

_REASONS = 5  # that are printed


def scanned(
    name: str, split: Dataset, column: str, rows: np.ndarray, max_image_pixels: int, looking: bool = False
) -> list[BadImage]:
    """The images of a split that do not decode, which are listed; odd ones are mentioned.

    Args:
        name: Of the split.
        split: Of the source.
        column: Of its images.
        rows: Which to decode.
        max_image_pixels: Larger ones are not decoded.
        looking: Whether it is remembered on the way what they look like, for a search for copies.
    """
    recorder = looks.Recorder() if looking and len(rows) <= looks.MOST else None
    found = scan(split, column, rows, max_image_pixels, recorder)
    if recorder is not None:
        recorder.keep(split, column)
    if found.bad:
        numbers = listing(image.row for image in found.bad)
        log.info(f"left out: {len(found.bad)} images of {name!r} that do not decode, rows {numbers}")
        for line in reasons(found.bad):
            log.info(line)
    if found.animated:
        log.info(f"{found.animated} images of {name!r} have several frames or pages: the first is used")
    return found.bad


def describe(prepared: LabelledImages) -> None:
    """Say what was inferred and what was left out."""
    found, made = prepared.schema, prepared.splits
    log.info(f"task: {found.task}, {found.described()}")
    for role, part in made.parts.items():
        carved = made.held_out.get(role)
        origin = f"split {part.source!r}"
        if carved:
            drawn = "by class" if found.classes else "stratified"
            origin = f"held out, {100 * carved['fraction']:g}% of {carved['from']}, {drawn}"
        log.info(f"{role}: {len(part.rows)} images ({origin})")
    for name in made.ignored:
        log.info(f"not used: split {name!r}{'' if len(prepared.source.splits[name]) else ', which is empty'}")
    for name, count in prepared.unlabelled.items():
        log.info(f"left out: {count} images of {name!r} without a label")
    for name, count in prepared.listed.items():
        log.info(f"left out: {count} images of {name!r} by --exclude")


def reasons(bad: Sequence[BadImage]) -> Iterator[str]:
    """Each reason once, the most frequent first, with one image as an example."""
    groups: dict[str, list[BadImage]] = {}
    for image in bad:
        groups.setdefault(re.sub(r"(?<= )'[^']*[/\\][^']*'|\d+", "...", image.reason), []).append(image)
    most = sorted(groups.values(), key=len, reverse=True)
    for images in most[:_REASONS]:
        first = images[0]
        example = first.path or f"row {first.row}"
        yield f"  {len(images)}: {first.reason}{'' if example in first.reason else f' ({example})'}"
    if len(most) > _REASONS:
        yield f"  and {len(most) - _REASONS} more reasons: result.json has them all"


def excluded(prepared: LabelledImages) -> dict[str, Any]:
    """What was left out, as result.json lists it."""
    rows: Mapping[str, list[BadImage]] = prepared.undecodable
    return {
        "undecodable": {name: [{"row": b.row, "reason": b.reason} for b in bad] for name, bad in rows.items()},
        "unlabelled": prepared.unlabelled,
        **({"listed": prepared.listed} if prepared.listed else {}),
    }
