"""What of a model is its classifier, and what its stages are, for training a part of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.models import group_parameters
from torch import nn

from finetune.errors import ModelError


def classifier_of(model: nn.Module) -> nn.Module:
    """The module that gives the logits, by timm's `get_classifier`.

    Raises:
        ModelError: The model has none, or several.
    """
    find: Any = getattr(model, "get_classifier", None)
    found = find() if find else None
    if not isinstance(found, nn.Module) or isinstance(found, nn.ModuleList) or not list(found.parameters()):
        raise ModelError(
            f"--freeze backbone needs a model with one classifier, as timm's get_classifier gives it, and "
            f"{type(model).__name__} has {'none' if found is None else type(found).__name__}: leave the flag out"
        )
    return found


def backbone_of(model: nn.Module) -> nn.Module:
    """The part that starts from pretrained weights, by `get_backbone`; of a model without it the model itself."""
    find: Any = getattr(model, "get_backbone", None)
    found: nn.Module = find() if find else model
    return found


def stages(model: nn.Module) -> list[set[str]]:
    """Names of the model's parameters, from the classifier down to the stem: the order in which they are unfrozen.

    First the classifier's; then stage by stage, as timm's `group_matcher` has them. What stands between the last stage
    and the classifier (a norm) goes with that stage.

    Raises:
        ModelError: timm does not say what the stages are, or there is no single classifier.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ModelError(f"--unfreeze-every: timm does not say what the stages of {type(model).__name__} are")
    own = {id(parameter) for parameter in classifier_of(model).parameters()}
    head = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    groups = [set(names) for _, names in sorted(group_parameters(model, matcher(coarse=True)).items(), reverse=True)]
    if len(groups) > 1 and head < groups[0]:
        groups[:2] = [groups[0] | groups[1]]
    below = [names - head for names in groups]
    return [head, *(names for names in below if names)]


def train_only(model: nn.Module, names: Iterable[str]) -> None:
    """Let the parameters of these names train, and nothing else change.

    Modules that hold none of them, or also others, are put into eval mode: running statistics of norms stay as they are
    and nothing is dropped. Lightning's `BaseFinetuning.freeze` leaves norms in train mode without tracking, which would
    normalise by the batch.
    """
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    model.eval()
    for name, module in model.named_modules():
        inside = [f"{name}.{own}" if name else own for own, _ in module.named_parameters()]
        if inside and chosen.issuperset(inside):
            module.train()
