"""Flags that only one task has, each task's in a group of its own, and what a task makes of the flags of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from finetune.errors import ConfigError

MultiLabelLoss = Literal["bce", "asymmetric"]
Detector = Literal["faster-rcnn", "mask-rcnn", "cascade-rcnn", "cascade-mask-rcnn", "fcos", "retinanet"]
Decoder = Literal["fpn", "unet", "upernet", "segformer", "deeplabv3plus", "deeplabv3"]
SegmentationLoss = Literal["ce", "ce-dice"]
DILATED = ("deeplabv3plus", "deeplabv3")
"""Decoders at output stride 16 or 8."""

BoxFormat = Literal["xywh", "xyxy", "cxcywh", "xywh-normalised", "xyxy-normalised", "cxcywh-normalised"]

_INFERRED = tyro.conf.arg(help_behavior_hint="(default: inferred)")
_LONG = tyro.conf.arg(help_behavior_hint="(default: 5/3 of --image-size)")
_BCE = tyro.conf.arg(help_behavior_hint="(default: bce)")
_DETECTOR = tyro.conf.arg(help_behavior_hint="(default: faster-rcnn; of masks mask-rcnn)")
_COLORS = tyro.conf.arg(help_behavior_hint="(default: the dataset's own)", metavar="COLOURS|FILE")
_UNLABELLED = tyro.conf.arg(help_behavior_hint="(default: what is called unlabeled, void, ignore or N/A)")

_DECODER = tyro.conf.arg(help_behavior_hint="(default: fpn)")
_STRIDE = tyro.conf.arg(help_behavior_hint="(default: 32; of deeplabv3 and deeplabv3plus 16)")
_LOSS = tyro.conf.arg(help_behavior_hint="(default: ce)")
_AUXILIARY = tyro.conf.arg(help_behavior_hint="(default: no second head)", metavar="WEIGHT")
_TILE = tyro.conf.arg(help_behavior_hint="(default: whole images)", metavar="PIXELS")


@dataclass(frozen=True, kw_only=True)
class MultiLabelOptions:
    """Several classes an image (multi-label-classification)."""

    multi_label_loss: Annotated[MultiLabelLoss | None, _BCE] = None
    """bce: binary cross-entropy; asymmetric: easy negatives count less (Ridnik et al. 2021), where images have few of
    many classes."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Objects in images (object-detection, instance-segmentation)."""

    box_format: Annotated[BoxFormat | None, _INFERRED] = None
    """What the numbers of a box are: left, top, width, height; left, top, right, bottom; or centre, width, height; in
    pixels, or normalised, in parts of the image."""
    max_size: Annotated[int | None, _LONG] = None
    """Longest side of an image in pixels: where its short one would be --image-size, and this is less, this counts."""
    detector: Annotated[Detector | None, _DETECTOR] = None
    """torchvision's detector over the backbone: regions first (the rcnn), with masks or in three steps (cascade), or
    boxes at once (fcos, retinanet)."""


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """A class a pixel (semantic-segmentation)."""

    mask_colors: Annotated[str | None, _COLORS] = None
    """Colours of the classes in coloured masks: name=r,g,b;name=r,g,b or a file of them (csv, json, text)."""
    ignore_classes: Annotated[str | None, _UNLABELLED] = None
    """Classes that are neither learnt nor counted: names or values of the masks with commas between, or none."""
    decoder: Annotated[Decoder | None, _DECODER] = None
    """What makes a map of classes of the backbone's maps, as segmentation_models_pytorch has it."""
    output_stride: Annotated[Literal[32, 16, 8] | None, _STRIDE] = None
    """Of the backbone, for deeplabv3 and deeplabv3plus 16 or 8: a finer last map, more time and memory."""
    segmentation_loss: Annotated[SegmentationLoss | None, _LOSS] = None
    """ce: cross-entropy of each pixel; ce-dice: with the Dice loss of each class, where some cover few pixels."""
    auxiliary_loss: Annotated[float | None, _AUXILIARY] = None
    """Weight of the loss of a second head on the backbone's last map but one, which is not exported."""
    tile: Annotated[int | None, _TILE] = None
    """Look at images that are larger in overlapping windows of this side, for memory; a multiple of 32."""


BY_TASK: tuple[tuple[str, type], ...] = (
    ("multi-label-classification", MultiLabelOptions),
    ("object-detection", DetectionOptions),
    ("instance-segmentation", DetectionOptions),
    ("semantic-segmentation", SegmentationOptions),
)
"""Each task's group; tasks may share one."""

READING = ("box_format", "mask_colors", "ignore_classes")
"""Of all these flags, those that say how a dataset is read."""
LOADING = ("max_size",)
"""Those that say how its images become batches."""


def of_task(flags: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Those of the flags that a task has."""
    own = {field.name for name, group in BY_TASK if name == task for field in dataclasses.fields(group)}
    return {name: value for name, value in flags.items() if name in own}


def reading(settings: Any) -> dict[str, Any]:
    """Flags that say how to read a dataset, as far as they are given.

    Args:
        settings: An object or a mapping that may have them; or None.
    """
    held = settings if isinstance(settings, Mapping) else vars(settings) if settings is not None else {}
    return {name: held[name] for name in READING if held.get(name) is not None}


def loading(settings: Any, task: str) -> dict[str, Any]:
    """Flags of a task that its data module takes."""
    return of_task({name: getattr(settings, name) for name in LOADING}, task)


def problems(config: Any) -> list[str]:
    """What does not go together of a task's own flags, a sentence each."""
    found = []
    decoder, stride, tile = config.decoder or "fpn", config.output_stride, config.tile
    if decoder in DILATED and stride == 32:
        found.append(f"--decoder {decoder} is for --output-stride 16 or 8, got 32")
    if decoder not in DILATED and stride not in (None, 32):
        found.append(f"--output-stride {stride} is for --decoder {' or '.join(DILATED)}, got {decoder}")
    if config.auxiliary_loss is not None and config.auxiliary_loss < 0:
        found.append(f"--auxiliary-loss must be at least 0, got {config.auxiliary_loss}")
    if tile is not None and (tile < 64 or tile % 32):
        found.append(f"--tile must be a multiple of 32 and at least 64, got {tile}")
    return found


def settle(config: Any, task: str, preset: Mapping[str, Any], refused: Mapping[str, str]) -> Any:
    """The settings of a run once its task is known.

    Args:
        config: A resolved `finetune.settings.config.RunConfig`.
        task: Name of the task.
        preset: The task's own values where the user has given none.
        refused: By field: why the task has no such thing.

    Raises:
        ConfigError: A flag is given that the task does not have.
    """
    problems = []
    if config.task not in (None, task):
        problems.append(f"--task {config.task}: the values are those of {task}: leave it out, or give another dataset")
    own = {field.name for name, group in BY_TASK if name == task for field in dataclasses.fields(group)}
    for group in dict.fromkeys(group for _, group in BY_TASK):
        others = " and ".join(name for name, other in BY_TASK if other is group)
        for field in dataclasses.fields(group):
            if field.name not in own and getattr(config, field.name) != field.default:
                problems.append(
                    f"{_flag(field.name)} is for {others}, and this dataset is read as {task}: leave it out"
                )
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, reason in refused.items():
        value = getattr(config, name)
        if name not in config.inferred and value not in (None, False, 0, "none", defaults[name]):
            problems.append(f"{_flag(name)} {value}: {task} {reason}: leave it out")
    if problems:
        raise ConfigError("; ".join(problems))
    nothing = {name: defaults[name] for name in refused if name in config.inferred}  # not what the common preset says
    open_ = config.inferred | {name for name in preset if getattr(config, name) is None and name not in config.needless}
    return config.inferring(nothing | {name: value for name, value in preset.items() if name in open_})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
