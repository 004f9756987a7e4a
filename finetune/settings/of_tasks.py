"""Flags that only one task has, each task's in a group of its own, and what a task makes of the flags of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from finetune.errors import ConfigError

MultiLabelLoss = Literal["bce", "asymmetric"]

_BCE = tyro.conf.arg(help_behavior_hint="(default: bce)")
_COLORS = tyro.conf.arg(help_behavior_hint="(default: the dataset's own)", metavar="COLOURS|FILE")
_UNLABELLED = tyro.conf.arg(help_behavior_hint="(default: what is called unlabeled, void, ignore or N/A)")


@dataclass(frozen=True, kw_only=True)
class MultiLabelOptions:
    """Several classes an image (multi-label-classification)."""

    multi_label_loss: Annotated[MultiLabelLoss | None, _BCE] = None
    """bce: binary cross-entropy; asymmetric: easy negatives count less (Ridnik et al. 2021), where images have few of
    many classes."""


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """A class a pixel (semantic-segmentation)."""

    mask_colors: Annotated[str | None, _COLORS] = None
    """Colours of the classes in coloured masks: name=r,g,b;name=r,g,b or a file of them (csv, json, text)."""
    ignore_classes: Annotated[str | None, _UNLABELLED] = None
    """Classes that are neither learnt nor counted: names or values of the masks with commas between, or none."""


BY_TASK: tuple[tuple[str, type], ...] = (
    ("multi-label-classification", MultiLabelOptions),
    ("semantic-segmentation", SegmentationOptions),
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
    for other, group in BY_TASK:
        for field in dataclasses.fields(group):
            if other != task and getattr(config, field.name) != field.default:
                problems.append(f"{_flag(field.name)} is for {other}, and this dataset is read as {task}: leave it out")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, reason in refused.items():
        value = getattr(config, name)
        if name not in config.inferred and value not in (None, False, 0, "none", defaults[name]):
            problems.append(f"{_flag(name)} {value}: {task} {reason}: leave it out")
    if problems:
        raise ConfigError("; ".join(problems))
    return config.inferring({name: value for name, value in preset.items() if name in config.inferred})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
