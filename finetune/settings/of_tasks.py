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

_BCE = tyro.conf.arg(help_behavior_hint="(default: bce)")
_DETECTOR = tyro.conf.arg(help_behavior_hint="(default: faster-rcnn; of masks mask-rcnn)")
_LONGEST = tyro.conf.arg(help_behavior_hint="(default: 5/3 of --image-size)")


@dataclass(frozen=True, kw_only=True)
class MultiLabelOptions:
    """Several classes an image (multi-label-classification)."""

    multi_label_loss: Annotated[MultiLabelLoss | None, _BCE] = None
    """bce: binary cross-entropy; asymmetric: easy negatives count less (Ridnik et al. 2021), where images have few of
    many classes."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Boxes and masks of objects (object-detection, instance-segmentation)."""

    detector: Annotated[Detector | None, _DETECTOR] = None
    """torchvision's detector over the backbone: regions first (the rcnn), with masks or in three steps (cascade), or
    boxes at once (fcos, retinanet)."""
    max_size: Annotated[int | None, _LONGEST] = None
    """Longest side of the images that the detector looks at, in pixels; --image-size is the shorter one."""


BY_TASK: tuple[tuple[str, type], ...] = (
    ("multi-label-classification", MultiLabelOptions),
    ("object-detection", DetectionOptions),
    ("instance-segmentation", DetectionOptions),
)
"""Each task's group."""


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
    of_this = [group for name, group in BY_TASK if name == task]
    for group in dict.fromkeys(group for _, group in BY_TASK if group not in of_this):
        others = " or ".join(name for name, one in BY_TASK if one is group)
        for field in dataclasses.fields(group):
            if getattr(config, field.name) != field.default:
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
    open_ = config.inferred | {name for name in preset if getattr(config, name) is None}
    return config.inferring({name: value for name, value in preset.items() if name in open_})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
