"""A pretrained backbone's maps brought to a deviation of one, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.tasks.detection.networks.layout import Layout
from finetune.tasks.detection.networks.losses import together


def level(model: nn.Module, images: Sequence[Tensor]) -> list[float]:
    """Divide the new weights that take each of the backbone's maps by the deviation of what they give.

    torchvision's heads have no norms, FCOS's apart, and are begun for maps of a deviation of about one. Those of a
    pretrained network may be ten times as large, EfficientNet's are: a mask then begins with a loss of 20 in the place
    of 0.7. Only new weights change, as in layer-sequential unit-variance initialisation
    (https://arxiv.org/abs/1511.06422), so the model is built as it was.

    Args:
        model: Of `build`, with a pretrained backbone and a new pyramid.
        images: float32 `[3, h, w]`, normalised, in the size that the model looks at.

    Returns:
        The deviations, the finest map's first; none of FCOS, whose heads have norms.
    """
    described: Any = model
    layout: Layout = described.layout
    if layout.detector == "fcos":
        return []
    body, pyramid = described.backbone.body, described.backbone.fpn
    squares = torch.zeros(len(pyramid.inner_blocks), dtype=torch.float64)
    training = model.training
    model.eval()
    with torch.no_grad():
        for image in images:
            maps = body(together(model, [image]).tensors)
            squares += torch.stack(
                [take(one).double().square().mean() for take, one in zip(pyramid.inner_blocks, maps, strict=True)]
            )
        deviations = (squares / max(1, len(images))).sqrt().tolist()
        for take, deviation in zip(pyramid.inner_blocks, deviations, strict=True):
            if deviation > 0:
                take[0].weight /= deviation
    model.train(training)
    return deviations
