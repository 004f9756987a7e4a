"""At output stride 32 every variant is stock timm's network: same state dict, outputs, gradients, size and cost."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import resnest_timm  # noqa: F401
from resnest_timm import ResNeStBottleneck
from tests.resnest_timm.helpers import (
    FACTS,
    KINDS,
    NAMES,
    NARROW,
    SHALLOW,
    assert_same,
    assert_same_run,
    create,
    images,
    is_same,
    materialize,
    run_model,
    run_reference,
    stock,
)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_interchangeable(name: str) -> None:
    theirs, ours = stock(name, device="meta"), timm.create_model(name, device="meta")
    assert all(isinstance(block, ResNeStBottleneck) for block in [*ours.layer1, *ours.layer4])
    shapes = [(key, tensor.shape, tensor.dtype) for key, tensor in theirs.state_dict().items()]
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in ours.state_dict().items()] == shapes
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_equal_stock_timm_in_both_modes(name: str) -> None:
    """At full depth; the largest at half width, `test_stock_form.py` compares their full width."""
    width = NARROW if FACTS[name].params > 40 else {}
    theirs, ours = materialize(stock(name, device="meta", **width)), timm.create_model(name, device="meta", **width)
    ours.load_state_dict({key: tensor.clone() for key, tensor in theirs.state_dict().items()}, strict=True, assign=True)
    x = images(3, 48)  # maps of 24, 12, 6, 3 and 2 pixels
    assert_same_run(run_model(ours.eval(), x), run_model(theirs.eval(), x))

    before = {key: tensor.clone() for key, tensor in theirs.named_buffers()}
    assert_same_run(run_model(ours.train(), x), run_model(theirs.train(), x))
    buffers = dict(ours.named_buffers())
    for key, expected in theirs.named_buffers():  # running statistics are updated alike
        assert not torch.equal(expected, before[key]), key
        torch.testing.assert_close(buffers[key], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_model_as_users_create_it_equals_stock_timm(name: str) -> None:
    """Memory, type and initial weights as by default, not by way of the device `meta`."""
    theirs, ours = stock(name, **SHALLOW), timm.create_model(name, **SHALLOW)
    assert all(parameter.dtype == torch.float32 for parameter in ours.parameters())
    assert all(not torch.any(block.bn3.weight) for block in [*ours.layer1, *ours.layer4])  # starts as its shortcut
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = images(2, 64, dtype=torch.float32)
    assert_same(ours.eval()(x), theirs.eval()(x), 1e-4)
    unlike = timm.create_model(name, **SHALLOW, drop_rate=0.5, zero_init_last=False)
    assert unlike.drop_rate == 0.5
    assert torch.any(unlike.layer4[0].bn3.weight)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_cost_are_the_published_ones(name: str) -> None:
    facts = FACTS[name]
    model = timm.create_model(name, device="meta").eval()
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == facts.params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, facts.size, facts.size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(facts.gmac, rel=0.01)


def test_the_comparison_tells_avd_first_apart() -> None:
    """With and without, ResNeSt-50 has the same state dict: only the outputs tell."""
    plain, fast = create("resnest50d"), create("resnest50_fast_2s1x64d")
    fast.load_state_dict(plain.state_dict(), strict=True)
    x = images(2, 48)
    assert not is_same(fast.eval()(x), plain.eval()(x), 1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_odd_sizes_and_other_channels_equal_stock_timm(name: str) -> None:
    arguments = {**SHALLOW, "in_chans": 1, "global_pool": "avgmax"}
    theirs, ours = materialize(stock(name, device="meta", **arguments)), create(name, **arguments)
    x = images(3, 75, channels=1)
    assert_same_run(run_model(ours, x), run_model(theirs, x))


@pytest.mark.parametrize("name", KINDS)
def test_drop_block_equals_stock_timm(name: str) -> None:
    """With the same seed: DropBlock stands in the same place, inside the split attention of the last two stages."""
    theirs = materialize(stock(name, device="meta", **SHALLOW, drop_block_rate=0.3))
    ours, without = create(name, **SHALLOW, drop_block_rate=0.3), create(name, **SHALLOW)
    x = images(3, 64)
    torch.manual_seed(3)
    expected = run_model(theirs.train(), x)
    torch.manual_seed(3)
    assert_same_run(run_model(ours.train(), x), expected)
    assert not is_same(without.train()(x), expected[0], 1e-3)
    without.load_state_dict(ours.state_dict(), strict=True)
    assert_same(ours.eval()(x), without.eval()(x))


@pytest.mark.parametrize(("act_layer", "act"), [("silu", F.silu), ("gelu", F.gelu)], ids=["silu", "gelu"])
@pytest.mark.parametrize("name", ["resnest14d", "resnest50d_1s4x24d"])
def test_act_layer_reaches_the_split_attention(name: str, act_layer: str, act: Callable[[Tensor], Tensor]) -> None:
    arguments = {**SHALLOW, "act_layer": act_layer}
    ours, theirs = create(name, **arguments), materialize(stock(name, device="meta", **arguments))
    assert not any(isinstance(module, nn.ReLU) for module in ours.modules())
    x = images(3, 48)
    expected = run_reference(replace(FACTS[name], layers=(2, 1, 1, 1)), ours, x, act=act)
    assert_same_run(run_model(ours, x), expected)
    assert not is_same(theirs(x), expected[0], 1e-3)  # stock timm keeps ReLU there
