"""Parameter groups, layer-wise learning rates, and the schedule that all of them follow."""

import re

import pytest
import timm
import torch
from torch import nn

from finetune.training.optim import head_lr, make_optimizer, make_schedule, scale_gradients, share_of_peak


def settings(model, optimizer):
    """By parameter: (learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def depth(name):
    """Layers between a parameter of resnest26d and the head: stem, four stages of two blocks, classifier."""
    place = re.match(r"layer(\d)\.(\d)", name)
    return 0 if name.startswith("fc.") else 8 - 2 * (int(place[1]) - 1) - int(place[2]) if place else 9


def test_layers_of_a_resnest_have_rates_that_fall_towards_the_stem():
    model = timm.create_model("resnest26d", num_classes=3)
    found = settings(model, make_optimizer(model, "adamw", 0.1, 0.05, layer_decay=0.5))
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert found[name] == (pytest.approx(0.1 * 0.5 ** depth(name)), 0.05 if parameter.ndim > 1 else 0.0), name


def test_without_layer_decay_there_is_one_rate():
    model = timm.create_model("resnest14d", num_classes=3)
    found = settings(model, make_optimizer(model, "adamw", 0.1, 0.05))
    assert set(found.values()) == {(0.1, 0.05), (0.1, 0.0)}
    assert all((decay == 0) == (model.get_parameter(name).ndim == 1) for name, (_, decay) in found.items())


def test_the_schedule_keeps_the_ratios_of_all_groups():
    model = timm.create_model("test_convnext", num_classes=3)
    optimizer = make_optimizer(model, "sgd", 0.1, 0.0, layer_decay=0.7)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = make_schedule(optimizer, 10, 3)
    assert len(set(peaks)) > 3
    for step in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([peak * share_of_peak(step, 10, 3) for peak in peaks])
        assert head_lr(optimizer) == max(rates)
        optimizer.step()
        schedule.step()


def test_the_rate_that_is_logged_is_the_heads():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr, "lr_scale": s} for lr, s in ((0.2, 0.5), (0.1, 1.0))]
    assert head_lr(torch.optim.SGD(groups)) == 0.1


def test_gradients_are_scaled_where_there_are_some():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    model.weight.grad = torch.full((2, 2), 3.0)
    scale_gradients(optimizer, 0.5)
    assert model.weight.grad.tolist() == [[1.5, 1.5]] * 2
    assert model.bias.grad is None
    scale_gradients(optimizer, torch.tensor(2.0))
    assert model.weight.grad.tolist() == [[3.0, 3.0]] * 2


@pytest.mark.parametrize("shape", ["cosine", "polynomial", "steps"])
def test_a_schedule_is_what_torch_has_of_it(shape):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    theirs = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    schedules = torch.optim.lr_scheduler
    reference = {
        "cosine": lambda: schedules.CosineAnnealingLR(theirs, 90),
        "polynomial": lambda: schedules.PolynomialLR(theirs, 90, power=0.9),
        "steps": lambda: schedules.MultiStepLR(theirs, [60, 80], gamma=0.1),
    }[shape]()
    ours = make_schedule(optimizer, 90, 0, shape)
    for _ in range(90):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        for one, schedule in ((optimizer, ours), (theirs, reference)):
            one.step()
            schedule.step()
