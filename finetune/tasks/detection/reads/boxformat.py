"""Which of the forms of a box the numbers of a dataset are: inferred from them, or an error that shows why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.errors import SchemaError

FORMATS = ("xywh", "xyxy", "cxcywh", "xywh-normalised", "xyxy-normalised", "cxcywh-normalised")
"""Left, top, width, height; left, top, right, bottom; centre, width, height. In pixels, or in parts of the image."""

_POSSIBLE = 0.99  # of the boxes that have to lie in their image
_AGREES = 0.9  # of the areas, or outlines, that a form has to explain
_SLACK = 2.0  # pixels by which a box may lie outside, or differ from its outline


@dataclass(frozen=True)
class Evidence:
    """Numbers of all boxes of a dataset; rows without numbers are left out by the caller.

    Attributes:
        boxes: float64 `[n, 4]`, as they stand.
        sizes: float64 `[n, 2]`, width and height of each one's image in pixels, in the frame of the boxes.
        areas: float64 `[n]` of an area column; NaN where there is none.
        extents: float64 `[n, 4]`, xyxy in pixels of each one's polygons; NaN where there are none.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    extents: np.ndarray


def to_xyxy(boxes: np.ndarray, sizes: np.ndarray, form: str) -> np.ndarray:
    """Corners in pixels.

    Args:
        boxes: float64 `[n, 4]` in the form.
        sizes: float64 `[n, 2]` or `[2]`: width, height.
        form: One of `FORMATS`.

    Returns:
        float64 `[n, 4]`: left, top, right, bottom.
    """
    kind, _, unit = form.partition("-")
    scaled = boxes * np.concatenate([sizes, sizes], axis=-1) if unit else boxes
    first, second = scaled[:, :2], scaled[:, 2:]
    if kind == "xywh":
        second = first + second
    elif kind == "cxcywh":
        first, second = first - second / 2, first + second / 2
    return np.concatenate([first, second], axis=1)


def decide(evidence: Evidence, column: str) -> tuple[str, str]:
    """The form of all boxes, and why.

    Args:
        evidence: Of at least one box.
        column: Of the boxes, for the message.

    Raises:
        SchemaError: None of the forms, or more than one, is possible.
    """
    normalised = _normalised(evidence)
    forms = [form for form in FORMATS if form.endswith("normalised") == normalised]
    inside = {form: _inside(evidence, form) for form in forms}
    agrees = {form: _agreement(evidence, form) for form in forms}
    possible = [form for form in forms if inside[form] >= _POSSIBLE]
    known = [form for form in forms if max(agrees[form], default=0.0) >= _AGREES]
    if possible and known:
        possible = [form for form in possible if form in known]
    if len(possible) > 1 and not normalised:
        # Centres in pixels are rare: they are taken where nothing else fits.
        possible = [form for form in possible if not form.startswith("cxcywh")] or possible
    table = _table(inside, agrees)
    if len(possible) == 1:
        return possible[0], table
    problem = "could be " + " or ".join(possible) if possible else "are none of the forms that are known"
    raise SchemaError(
        f"the boxes of column {column!r} {problem} ({len(evidence.boxes)} boxes: {table}): say by --box-format which "
        f"they are, one of {', '.join(FORMATS)}"
    )


def _normalised(evidence: Evidence) -> bool:
    """Whether boxes are in parts of their image; a hundredth may be a rounding above 1."""
    boxes = evidence.boxes
    return bool(boxes.max() <= 1.05 and boxes.min() >= -0.05 and evidence.sizes.min() > 2)


def _inside(evidence: Evidence, form: str) -> float:
    """Share of the boxes that lie in their image, the right way round."""
    corners = to_xyxy(evidence.boxes, evidence.sizes, form)
    slack = np.maximum(_SLACK, 0.01 * evidence.sizes)
    fits = (corners[:, :2] >= -slack).all(1) & (corners[:, 2:] <= evidence.sizes + slack).all(1)
    upright = (corners[:, 2:] >= corners[:, :2]).all(1)
    empty = (evidence.boxes[:, 2:] == 0).any(1) | (evidence.boxes[:, 2:] == evidence.boxes[:, :2]).any(1)
    told = ~empty if (~empty).any() else np.ones(len(empty), dtype=bool)  # a box without area says nothing
    return float(np.asarray(fits & upright)[told].mean())


def _agreement(evidence: Evidence, form: str) -> tuple[float, ...]:
    """Share of the areas, and of the outlines, that a form explains; nothing where there are none."""
    corners = to_xyxy(evidence.boxes, evidence.sizes, form)
    sides = corners[:, 2:] - corners[:, :2]
    found = []
    told = np.isfinite(evidence.areas) & (evidence.areas > 0)
    if told.any():
        areas = sides.prod(1) * (sides > 0).all(1)
        whole = evidence.sizes.prod(1)
        relative = evidence.areas.max() <= 1.0
        stated = evidence.areas * (whole if relative else 1.0)
        # Of rounded sides; or of pixels between inclusive corners.
        slack = np.maximum(sides.clip(0).sum(1) * 1.01 + 1.0, 0.02 * stated)
        found.append(float((np.abs(areas - stated) <= slack)[told].mean()))
    told = np.isfinite(evidence.extents).all(1)
    if told.any():
        close = (np.abs(corners - evidence.extents) <= np.maximum(_SLACK, 0.02 * sides.max(1, keepdims=True))).all(1)
        found.append(float(close[told].mean()))
    return tuple(found)


def _table(inside: dict[str, float], agrees: dict[str, tuple[float, ...]]) -> str:
    parts = []
    for form, share in inside.items():
        more = "".join(f", {100 * one:.0f}% agree" for one in agrees[form])
        parts.append(f"{form} {100 * share:.0f}% in their image{more}")
    return "; ".join(parts)
