"""(name, layout) -> one of torchvision's detectors on a feature pyramid over a timm backbone.

The detector is torchvision's own class with its own transform, so that strangers build it in a few lines and load the
state dict strictly; see `cards/certificate/clients/stock_torchvision.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from finetune.errors import ModelError
from finetune.export.model_folder import stock_architecture
from finetune.networks import models
from finetune.tasks.detection.networks import anchors
from finetune.tasks.detection.networks.cascade import CascadeHeads
from finetune.tasks.detection.networks.layout import CASCADES, ONE_STAGE, Layout

CHANNELS = 256
"""Of every level of the feature pyramid."""
STRIDES, ONE_STAGE_STRIDES = (4, 8, 16, 32), (8, 16, 32)


class Pyramid(nn.Module):
    """A timm backbone's maps and torchvision's feature pyramid over them.

    Args:
        body: timm's, with `features_only`.
        coarser: Makes further levels.
    """

    def __init__(self, body: nn.Module, coarser: nn.Module) -> None:
        super().__init__()
        info: Any = body.feature_info
        self.body = body
        self.fpn = FeaturePyramidNetwork(info.channels(), CHANNELS, extra_blocks=coarser)
        self.out_channels = CHANNELS

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """float32 `[B, 3, H, W]` -> maps `[B, 256, h, w]`, the finest first."""
        maps: dict[str, Tensor] = self.fpn({str(level): one for level, one in enumerate(self.body(pixels))})
        return maps


class Coarser(LastLevelP6P7):  # type: ignore[misc]  # torchvision has no types
    """torchvision's two coarsest levels, in float32 in mixed precision, too.

    Their maps may be one pixel large, and oneDNN's gradient of such a convolution in bfloat16 is memory that nobody has
    written: runs differed from each other, and weights became NaN.
    """

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> Any:
        """The levels and their names, with two more."""
        coarsest = p[-1] if p[-1].dtype == torch.float64 else p[-1].float()
        with torch.autocast(coarsest.device.type, enabled=False):
            return super().forward([*p[:-1], coarsest], c, names)


def build(
    name: str,
    detector: str,
    num_classes: int,
    pretrained: bool,
    image_size: int | None = None,
    max_size: int | None = None,
    drop_path: float | None = None,
    zero_init_last: bool = True,
) -> nn.Module:
    """A detector with a new head, its backbone with all of its pretrained weights.

    Args:
        name: timm name, `hf-hub:OWNER/NAME` or `local-dir:PATH`.
        detector: Its kind, see `Layout.detector`.
        num_classes: Without background.
        pretrained: Load the backbone's weights.
        image_size: Shorter side of the images; the backbone's own when not given.
        max_size: Longest side; 5/3 of the shorter one when not given.
        drop_path: Rate of stochastic depth in the backbone.
        zero_init_last: See `finetune.networks.models.build`.

    Raises:
        ModelError: The backbone cannot be built, has no maps at the strides that are needed, or the names of its
            weights are others than those of its maps' network.
        ExportError: Stock timm cannot build the same backbone.
    """
    whole = models.build(name, None, pretrained, None, zero_init_last=zero_init_last, drop_path=drop_path)
    config = models.data_config(whole, image_size)
    architecture, arguments = stock_architecture(whole)
    min_size = config["input_size"][-1]
    layout = Layout(
        detector=detector,
        architecture=architecture,
        model_args=arguments,
        out_indices=_levels(whole, name, ONE_STAGE_STRIDES if detector in ONE_STAGE else STRIDES),
        num_classes=num_classes,
        min_size=min_size,
        max_size=max_size or round(min_size * 5 / 3),
        image_mean=tuple(config["mean"]),
        image_std=tuple(config["std"]),
        interpolation=config["interpolation"],
        anchor_sizes=anchors.default_sizes(detector),
        aspect_ratios=anchors.default_ratios(detector),
        nms_thresh=0.6 if detector == "fcos" else 0.5,
    )
    model = assemble(layout, drop_path)
    take(_untyped(model).backbone.body, whole)
    described, source = _untyped(model), _untyped(whole)
    described.pretrained_cfg = source.pretrained_cfg
    return model


def _untyped(model: nn.Module) -> Any:
    """For attributes that are timm's and torchvision's, not torch's."""
    return model


def assemble(layout: Layout, drop_path: float | None = None) -> nn.Module:
    """The detector of a layout, with random weights; `model.layout` says what it is.

    Raises:
        ModelError: timm cannot build the backbone.
    """
    options: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        body = timm.create_model(
            layout.architecture,
            pretrained=False,
            features_only=True,
            out_indices=layout.out_indices,
            **layout.model_args,
            **options,
        )
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"{layout.architecture}: timm gives no maps of it ({' '.join(str(error).split())})") from error
    coarser = Coarser(CHANNELS, CHANNELS) if layout.one_stage else LastLevelMaxPool()
    model = _detector(layout, Pyramid(body, coarser))
    described: Any = model
    described.layout = layout
    # What the rest of the house asks a timm model for.
    described.pretrained_cfg = {
        "architecture": layout.architecture,
        "input_size": (3, layout.min_size, layout.min_size),
        "mean": layout.image_mean,
        "std": layout.image_std,
        "interpolation": layout.interpolation,
    }
    described._model_args = dict(layout.model_args)
    described.get_classifier = MethodType(_heads, model)
    return model


class Heads(nn.Module):
    """All of a detector that its backbone's weights say nothing of: what trains where the backbone is frozen."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def _heads(model: Any) -> nn.Module:
    """As timm's `get_classifier`."""
    return Heads([model.backbone.fpn, *(part for name, part in model.named_children() if name != "backbone")])


def _detector(layout: Layout, backbone: nn.Module) -> nn.Module:
    kinds: dict[str, Any] = {"fcos": FCOS, "retinanet": RetinaNet}
    kind = kinds.get(layout.detector, MaskRCNN if layout.masks else FasterRCNN)
    prefix = "" if layout.one_stage else "box_"
    limits = {f"{prefix}{name}": getattr(layout, name) for name in ("score_thresh", "nms_thresh", "detections_per_img")}
    sizes = layout.anchor_sizes
    generator = AnchorGenerator(sizes, (layout.aspect_ratios,) * len(sizes))
    model: Any = kind(
        backbone,
        layout.num_classes + layout.background,
        min_size=layout.min_size,
        max_size=layout.max_size,
        image_mean=list(layout.image_mean),
        image_std=list(layout.image_std),
        **{"anchor_generator" if layout.one_stage else "rpn_anchor_generator": generator},
        **limits,
    )
    if layout.detector in CASCADES:
        model.roi_heads = CascadeHeads(model.roi_heads, CHANNELS, layout.num_classes + 1)
    typed: nn.Module = model
    return typed


def _levels(whole: nn.Module, name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Which of timm's maps have the strides that the pyramid stands on."""
    info: Any = getattr(whole, "feature_info", None)
    reductions = [entry.get("reduction") for entry in info] if isinstance(info, list) else []
    found = tuple(reductions.index(stride) for stride in strides if stride in reductions)
    if len(found) < len(strides):
        raise ModelError(
            f"--model {name}: a feature pyramid needs maps at 1/{', 1/'.join(map(str, strides))} of the image, and "
            f"timm gives {', '.join(f'1/{one}' for one in reductions) or 'none'}: take a convolutional network, for "
            "instance resnest50 or efficientnet_b0"
        )
    return found


def take(body: nn.Module, whole: nn.Module) -> None:
    """Copy all weights and statistics of a network into that of its maps, which may name them otherwise.

    timm puts `stages_0` in the place of `stages.0` where it takes a network apart, and `model.` before all names where
    it hooks into one.

    Raises:
        ModelError: One has no counterpart of its shape: the maps' network would begin at random without a word.
    """
    known = {_flat(name): value for name, value in whole.state_dict().items()}
    wanted = body.state_dict()
    found: Mapping[str, Tensor | None] = {name: known.get(_flat(name)) for name in wanted}
    missing = [name for name, value in found.items() if value is None or value.shape != wanted[name].shape]
    if missing:
        raise ModelError(
            f"{len(missing)} of the {len(wanted)} weights of the backbone's maps are not among the model's own "
            f"({missing[0]}, ...): this network cannot carry a detector; take another --model"
        )
    body.load_state_dict(found)
    with torch.no_grad():  # what was meant to be copied has been
        assert all(torch.equal(value, found[name].to(value.dtype)) for name, value in body.state_dict().items())  # type: ignore[union-attr]


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
