"""A detector as a graph of one image of any size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from finetune.tasks.detection.networks import finding
from finetune.tasks.detection.networks.layout import Layout

OBJECTS = {0: "objects"}


class Graph(nn.Module):
    """float32 `[1, 3, h, w]`, normalised -> `boxes`, `labels`, `scores` and perhaps `masks`, as `finding.seen`.

    Args:
        model: Of `finetune.tasks.detection.networks.build`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """In pixels of the input."""
        described: Any = self.model
        # No numbers, for those would be constants in the graph: followed by the exporter, they are tensors.
        size = (pixels.shape[-2], pixels.shape[-1])
        batch = ImageList(described.transform.batch_images([pixels[0]], 32), [size])
        return tuple(finding.seen(self.model, batch).values())


def outputs(layout: Layout) -> dict[str, dict[int, str]]:
    """Names of what it gives, and of what varies in each."""
    return dict.fromkeys(("boxes", "labels", "scores", *(("masks",) if layout.masks else ())), OBJECTS)


DESCRIPTION = (
    "RGB image: resize the whole of it by scale = min(min_size / shorter side, max_size / longer side), each side "
    "max(round(scale * side), 1), antialiased by interpolation; divide by 255, subtract mean, divide by std, channels "
    "first: pixels [1, 3, h, w], one image of any size. boxes [objects, 4]: left, top, right, bottom in pixels of the "
    "resized image (times W / w and H / h in the image's own); labels [objects]: indices of classes; scores [objects], "
    "the surest first: show those from threshold on; sigmoid(log(score / (1 - score)) / temperature) are calibrated. "
    "masks [objects, 1, 28, 28], where there are any: probabilities within the box."
)


def preprocessing(layout: Layout) -> dict[str, Any]:
    """What `DESCRIPTION` speaks of."""
    return {
        "min_size": layout.min_size,
        "max_size": layout.max_size,
        "interpolation": layout.interpolation,
        "mean": list(layout.image_mean),
        "std": list(layout.image_std),
    }
