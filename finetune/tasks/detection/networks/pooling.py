"""RoIAlign over a pyramid as torchvision has it, with a gradient that all of a CPU's cores work on.

torchvision's own gradient adds one number at a time on one core: on CPUs it was two fifths of a step of Faster R-CNN.
It is linear, so it is a sum over the samples that touch a pixel, and summing rows of a table by index is what
`torch.nn.functional.embedding_bag` does, on all cores. Values are torchvision's to the bit; gradients differ in the
order of their sums.

Source of the sampling: He et al., "Mask R-CNN", https://arxiv.org/abs/1703.06870, in the form of `roi_align` of
https://github.com/pytorch/vision with `aligned=False`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign


def pool(
    module: MultiScaleRoIAlign, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """What the module gives, `[K, C, S, S]`.

    Args:
        module: torchvision's.
        maps: `[B, C, h, w]` by name; those that the module does not take are left out.
        boxes: For each image `[n, 4]`, xyxy, in its pixels; they get no gradient.
        sizes: Height and width of the images.
    """
    taken = [name for name in module.featmap_names if name in maps]
    first = maps[taken[0]]
    if first.device.type != "cpu" or module.sampling_ratio < 1 or not torch.is_grad_enabled():
        return module(maps, list(boxes), list(sizes))  # type: ignore[no-any-return]  # torchvision has no types
    found: Tensor = _Pooled.apply(module, taken, sizes, *(maps[name] for name in taken), *boxes)
    return found


class _Pooled(torch.autograd.Function):
    """The module's values, and the gradient of its maps."""

    @staticmethod
    def forward(ctx: Any, module: Any, names: list[str], sizes: Any, *tensors: Tensor) -> Tensor:
        maps, boxes = tensors[: len(names)], tensors[len(names) :]
        ctx.save_for_backward(*boxes)
        ctx.module, ctx.shapes = module, [one.shape for one in maps]
        found: Tensor = module(dict(zip(names, maps, strict=True)), list(boxes), list(sizes))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        boxes, (gradient,) = ctx.saved_tensors, gradients
        levels = ctx.module.map_levels(list(boxes))
        joined = torch.cat(boxes)
        image = torch.cat([torch.full((len(one),), number) for number, one in enumerate(boxes)])
        found = []
        for level, (shape, scale) in enumerate(zip(ctx.shapes, ctx.module.scales, strict=True)):
            rows = torch.where(levels == level)[0]
            scaled = joined[rows] * scale
            found.append(spread(gradient[rows], scaled, image[rows], shape, ctx.module.sampling_ratio))
        return None, None, None, *found, *(None for _ in boxes)


def spread(gradient: Tensor, boxes: Tensor, image: Tensor, shape: Sequence[int], samples: int) -> Tensor:
    """The gradient of one level's maps, of that of what was pooled from them.

    Args:
        gradient: `[K, C, S, S]`.
        boxes: `[K, 4]`, xyxy, in pixels of the maps.
        image: int64 `[K]`.
        shape: B, C, h, w of the maps.
        samples: Points along each side of a cell.
    """
    number, channels, height, width = shape
    if not len(boxes):
        return gradient.new_zeros(tuple(shape))
    down, weight_down = _along(boxes[:, 1], boxes[:, 3], gradient.shape[2], samples, height)
    across, weight_across = _along(boxes[:, 0], boxes[:, 2], gradient.shape[3], samples, width)
    pixels = (image[:, None, None] * height + down)[:, :, None, :, None] * width + across[:, None, :, None, :]
    weights = weight_down[:, :, None, :, None] * weight_across[:, None, :, None, :]
    cells = gradient.permute(0, 2, 3, 1).reshape(-1, channels)
    touched = number * height * width
    ordered, order = pixels.flatten().sort(stable=True)
    begins = torch.searchsorted(ordered, torch.arange(touched, device=ordered.device))
    of_cell = order // (pixels.shape[3] * pixels.shape[4])
    summed = F.embedding_bag(
        of_cell, cells, begins, mode="sum", per_sample_weights=weights.flatten()[order].to(cells.dtype)
    )
    return summed.view(number, height, width, channels).permute(0, 3, 1, 2)


def _along(low: Tensor, high: Tensor, cells: int, samples: int, length: int) -> tuple[Tensor, Tensor]:
    """Of one axis: the pixels that each cell's samples lie between, and their shares in the cell's mean.

    Args:
        low: `[K]`, where the boxes begin.
        high: `[K]`, where they end.
        cells: S.
        samples: Of each cell.
        length: Of the map.

    Returns:
        int64 and float `[K, S, 2 * samples]`.
    """
    cell = (high - low).clamp(min=1) / cells
    steps = (torch.arange(cells * samples, device=low.device) + 0.5).to(low.dtype) / samples
    at = low[:, None] + steps * cell[:, None]
    inside = ((at >= -1) & (at <= length)).to(low.dtype) / samples
    at = at.clamp(min=0)
    first = at.long().clamp(max=length - 1)
    second = (first + 1).clamp(max=length - 1)
    beyond = torch.where(first >= length - 1, 0.0, at - first)
    places = torch.stack([first, second], dim=-1).view(len(low), cells, 2 * samples)
    shares = torch.stack([(1 - beyond) * inside, beyond * inside], dim=-1).view(len(low), cells, 2 * samples)
    return places, shares
