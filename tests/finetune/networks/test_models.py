"""How a model begins."""

import pytest
import torch
from torch import nn

from finetune.networks import models

BRANCHES = {"resnest14d": 4, "resnet18": 8, "mobilenetv3_small_050": 0}


def silent(model):
    """Norms whose weight is zero, so that what is before them does not count."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.any()]


@pytest.mark.parametrize("name", BRANCHES)
def test_residual_branches_take_part_from_the_first_step(name):
    for zero in (True, False):
        torch.manual_seed(0)
        model = models.build(name, 3, False, zero_init_last=zero)
        assert len(silent(model)) == zero * BRANCHES[name]
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        without = [m for m in model.modules() if isinstance(m, nn.Conv2d) and not m.weight.grad.any()]
        assert bool(without) == (zero and BRANCHES[name] > 0)


def test_the_rest_is_as_timm_has_it():
    states = []
    for zero in (True, False):
        torch.manual_seed(0)
        states.append(models.build("resnest14d", 3, False, zero_init_last=zero).state_dict())
    differ = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert differ == {f"layer{stage}.0.bn3.weight" for stage in range(1, 5)}
