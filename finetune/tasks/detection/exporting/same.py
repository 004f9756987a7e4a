"""Whether two computations of one detector have found the same objects, in whatever order, ties apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from finetune.tasks.detection.networks.layout import Layout

SCORE = 1e-4
"""What scores may differ by: of float32 in another order."""
SIDE = 1e-3
"""What a side of a box may be off by, of the image's longer side."""
MASK = 1e-2
"""What a probability in a mask may differ by; it has been pooled from a box that may be off."""
OVERLAP = 1e-2
"""How near to the limit of suppression an overlap may fall on either side."""

Seen = Mapping[str, Tensor]
"""Of `finding.seen`."""


@dataclass(frozen=True)
class Difference:
    """Of one image.

    Attributes:
        objects: That both have found.
        ties: That one has found and the other has not, for a reason that rounding explains: see `compare`.
        others: That one has found and the other has not, without one.
        score: Largest difference of a score.
        side: Largest difference of a box's side, over the image's longer side.
        mask: Largest difference of a mask's probability.
    """

    objects: int = 0
    ties: int = 0
    others: int = 0
    score: float = 0.0
    side: float = 0.0
    mask: float = 0.0

    def __add__(self, other: Difference) -> Difference:
        """Of both: sums, and the larger of the differences."""
        counts = (self.objects + other.objects, self.ties + other.ties, self.others + other.others)
        worst = (max(self.score, other.score), max(self.side, other.side), max(self.mask, other.mask))
        return Difference(*counts, *worst)


def compare(live: Seen, found: Seen, layout: Layout, longest: int) -> Difference:
    """Match objects of one label whose boxes and scores are equal as far as float32 goes.

    Objects without a counterpart are ties where rounding decides whether they are found at all: their score is the
    lowest that is kept, or of two boxes of a class that overlap as much as the suppression allows, or that are equally
    sure, one stays in the one computation and the other in the other.

    Args:
        live: Of the network.
        found: Of its exported form.
        layout: The detector's.
        longest: The image's longer side, in pixels.
    """
    if any(not bool(value.isfinite().all()) for value in found.values()):
        return Difference(others=1)
    here, there = _matched(live, found, longest)
    one, two = ({name: value[places] for name, value in of.items()} for of, places in ((live, here), (found, there)))
    alone = ((live, found, _rest(live, here)), (found, live, _rest(found, there)))
    ties = sum(_is_tie(mine, place, other, layout) for mine, other, rest in alone for place in rest)
    return Difference(
        objects=len(here),
        ties=ties,
        others=sum(len(rest) for *_, rest in alone) - ties,
        score=_largest(one["scores"], two["scores"]),
        side=_largest(one["boxes"], two["boxes"]) / longest,
        mask=_largest(one["masks"], two["masks"]) if "masks" in one else 0.0,
    )


def _largest(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max()) if one.numel() else 0.0


def _rest(of: Seen, taken: list[int]) -> list[int]:
    return sorted(set(range(len(of["scores"]))) - set(taken))


def _matched(live: Seen, found: Seen, longest: int) -> tuple[list[int], list[int]]:
    """Places of counterparts, the surest first."""
    apart = (live["boxes"][:, None] - found["boxes"][None]).abs().amax(2) / longest
    unsure = (live["scores"][:, None] - found["scores"][None]).abs()
    possible = (live["labels"][:, None] == found["labels"][None]) & (apart <= SIDE) & (unsure <= SCORE)
    if "masks" in live:
        masks = (live["masks"].flatten(1)[:, None] - found["masks"].flatten(1)[None]).abs().amax(2)
        possible &= masks <= MASK
    distance = torch.where(possible, apart, torch.inf).numpy()
    here, there = [], []
    for place in np.argsort(-live["scores"].numpy(), kind="stable").tolist() if distance.size else []:
        nearest = int(distance[place].argmin())
        if np.isfinite(distance[place, nearest]):
            here.append(place)
            there.append(nearest)
            distance[:, nearest] = np.inf
    return here, there


def _is_tie(mine: Seen, place: int, other: Seen, layout: Layout) -> bool:
    """Whether rounding explains that the other has no such object."""
    label, score, box = (mine[name][place] for name in ("labels", "scores", "boxes"))
    full = len(other["scores"]) >= layout.detections_per_img
    lowest = float(other["scores"].min()) if full else layout.score_thresh
    if float(score) <= lowest + SCORE:
        return True
    rivals = (other["labels"] == label) & (other["scores"] >= score - SCORE)
    overlaps = box_iou(box[None], other["boxes"][rivals])[0]
    near = (overlaps - layout.nms_thresh).abs() <= OVERLAP
    equal = (overlaps > layout.nms_thresh) & (other["scores"][rivals] <= score + SCORE)
    return bool((near | equal).any())
