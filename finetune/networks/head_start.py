"""How the classifier of a model starts, where the model's weights are pretrained and its classes are new.

timm draws the weights of a new classifier from a range that is wide where there are few classes. The first gradients
then carry its noise into good features. A classifier of zeros has no such noise, and neither has a linear probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.networks.linear_probe import LinearProbe


def linear_classifier(model: nn.Module) -> nn.Linear | None:
    """The layer that gives a model's logits, by timm's `get_classifier`; None where it is not one linear layer."""
    find: Any = getattr(model, "get_classifier", None)
    found = find() if find else None
    return found if isinstance(found, nn.Linear) and found.bias is not None else None


def is_new(model: nn.Module, classes: Sequence[str]) -> bool:
    """Whether the pretrained weights have no classifier for these classes.

    A classifier of as many outputs was loaded with the weights. It is for other classes where its names, if the weights
    come with any, are not these in this order.
    """
    described: Any = model
    config = getattr(described, "pretrained_cfg", None) or {}
    names = config.get("label_names")
    return config.get("num_classes") != len(classes) or (names is not None and list(names) != list(classes))


def start_at_zero(classifier: nn.Linear, counts: Sequence[int] | None) -> None:
    """All weights zero, so that each class begins with its share of the training images as its probability.

    Args:
        classifier: To change.
        counts: Training images of each class; all classes alike when not given.
    """
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.zero_()
        if counts is not None and any(counts):
            images = torch.tensor(counts, dtype=torch.float64).clamp(min=0.5)  # a class without any stays finite
            classifier.bias.copy_((images / images.sum()).log())


def start_at_probe(classifier: nn.Linear, probe: LinearProbe) -> None:
    """The probe's weights and bias."""
    with torch.no_grad():
        classifier.weight.copy_(probe.weight)
        classifier.bias.copy_(probe.bias)


def entries(task: nn.Module, classifier: nn.Linear, probe: LinearProbe) -> dict[str, Tensor]:
    """What of the state dict of `task`, which has `classifier` in it, would be the probe's: names and values."""
    name = next(name for name, module in task.named_modules() if module is classifier)
    return {f"{name}.weight": probe.weight.float(), f"{name}.bias": probe.bias.float()}
