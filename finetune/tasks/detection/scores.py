"""What is reported of a detector, the same over any number of processes: all is judged in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from finetune.task import Score
from finetune.tasks.detection.judging import coco
from finetune.tasks.detection.judging.detected import Detected

Record = tuple[tuple[int, int], dict[str, Any], dict[str, Any]]

SCORES = (
    Score("map", "AP"),
    Score("map_50", "AP at overlap 0.5"),
    Score("map_75", "AP at overlap 0.75"),
    Score("map_small", "AP, small objects", logged=False),
    Score("map_medium", "AP, medium objects", logged=False),
    Score("map_large", "AP, large objects", logged=False),
    Score("mar_100", "AR, 100 an image", logged=False),
)
MASK_SCORES = (
    Score("mask_map", "mask AP"),
    Score("mask_map_50", "mask AP at 0.5"),
    Score("mask_map_75", "mask AP at 0.75"),
)


def record(found: dict[str, Any], target: dict[str, Any]) -> Record:
    """Of an image, on the CPU: its size, what was found, and what is there."""
    size = tuple(int(side) for side in target["size"])
    truth: dict[str, Any] = {
        name: target[name] for name in ("boxes", "labels", "iscrowd", "area", "rles") if name in target
    }
    return (size[0], size[1]), _on_cpu(found), _on_cpu(truth)


def _on_cpu(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in entry.items()}


def gathered(records: Sequence[Record]) -> list[Record] | None:
    """Those of all processes, by rank, which is the order of the rows; in the first process only."""
    if not (dist.is_available() and dist.is_initialized()):
        return list(records)
    everywhere: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(list(records), everywhere)
    return None if everywhere is None else [one for of_rank in everywhere for one in of_rank]


class DetectionScores(Metric):
    """COCO's numbers over all images of a split, by `finetune.tasks.detection.judging.coco`.

    Images must be dealt to the processes in consecutive rows, each once, as `loading.sampler.EvalBatches` does.

    Args:
        num_classes: How many.
        masks: Whether masks are judged, too.
        options: Of `torchmetrics.Metric`.
    """

    full_state_update = False
    records: list[Record]

    def __init__(self, num_classes: int, masks: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes, self.masks, self.records = num_classes, masks, []

    def update(self, found: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
        """Add what was found in some images, and what is there."""
        self.records += [record(*pair) for pair in zip(found, targets, strict=True)]

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars, the same in every process."""
        alone = not self.distributed_available_fn()  # also where one process of a run looks at images by itself
        everything = list(self.records) if alone else gathered(self.records)
        found: list[Any] = [None]
        if everything is not None:
            found = [coco.scores(Detected.of(everything), self.num_classes, self.masks)]
        if not alone and dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(found)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found[0].items()}

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.records = []
