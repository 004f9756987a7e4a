"""Which of a model's outputs each class of a dataset means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from finetune.errors import ModelError, listing


@dataclass(frozen=True)
class LabelMap:
    """Where a dataset's classes are among a model's outputs.

    Attributes:
        outputs: int64 `[number of classes]`, the model's output for each class.
        num_outputs: How many outputs the model has.
        rule: How they were matched, in words.
    """

    outputs: np.ndarray
    num_outputs: int
    rule: str


def match(classes: Sequence[str], model: nn.Module) -> LabelMap:
    """Match a dataset's classes to a model's outputs.

    In this order: by the label names that the model carries; for an ImageNet model by WordNet id (`n01440764`) or by
    ImageNet's class names; classes that are the numbers 0 to N - 1, as ImageNet-V2's folders, by number (as text they
    would sort 0, 1, 10, 100, ...); as many classes as outputs, in the dataset's order.

    Args:
        classes: The dataset's.
        model: A timm model.

    Raises:
        ModelError: They say in no way which is which.
    """
    config: Any = getattr(model, "pretrained_cfg", {})
    outputs = int(getattr(model, "num_classes", 0))
    info = _imagenet(model)
    named = [("the model's label names", list(config.get("label_names") or []))]
    if info is not None:
        named += [("WordNet id", info.label_names()), ("ImageNet's class names", info.label_descriptions())]
    for rule, names in named:
        index = {name: i for i, name in enumerate(names)}
        if len(index) == len(names) == outputs and set(classes) <= set(index):
            return LabelMap(np.array([index[name] for name in classes]), outputs, rule)
    if len(classes) == outputs:
        if set(classes) == {str(i) for i in range(outputs)}:
            return LabelMap(np.array([int(name) for name in classes]), outputs, "number")
        return LabelMap(np.arange(outputs), outputs, "the dataset's order")
    known = named[0][1] or (["WordNet ids such as n01440764"] if info else [])
    raise ModelError(
        f"the dataset has {len(classes)} classes ({listing(classes, 5)}), the model {outputs} outputs: they do not say "
        f"which is which. Evaluate a model that was trained on these classes"
        + (f", or name them as the model does: {listing(known, 5)}" if known else "")
    )


def names(model: nn.Module) -> tuple[str, ...]:
    """What to call a model's outputs: its label names, ImageNet's class names, or else their numbers.

    Args:
        model: A timm model.
    """
    config: Any = getattr(model, "pretrained_cfg", {})
    outputs = int(getattr(model, "num_classes", 0))
    info = _imagenet(model)
    for known in (config.get("label_names"), info and info.label_descriptions()):
        if known and len(known) == outputs:
            return tuple(known)
    return tuple(str(i) for i in range(outputs))


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are ImageNet-1k's classes in their order: sorted WordNet ids, or the names that go with them."""
    info = ImageNetInfo("imagenet-1k")
    if len(classes) != info.num_classes():
        return False
    # Copies of the dataset tell the two cranes and a few others apart in ways of their own.
    same = sum(a == b for a, b in zip(classes, info.label_descriptions(), strict=True))
    return bool(list(classes) == info.label_names() or same > 0.95 * len(classes))


def _imagenet(model: nn.Module) -> ImageNetInfo | None:
    subset = infer_imagenet_subset(model)
    return ImageNetInfo(subset) if subset else None
