"""Dilated networks (output stride 16 and 8) have the authors' form, which stock timm's have not."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import resnest_timm  # noqa: F401
from tests.resnest_timm.helpers import (
    FACTS,
    NAMES,
    NARROW,
    Reference,
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

COMPARED = (
    "resnest14d",
    "resnest26d",
    "resnest50d",
    "resnest50_fast_2s1x64d",
    "resnest50d_4s2x40d",
    "resnest50d_1s4x24d",
)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", COMPARED)
def test_outputs_and_gradients_equal_the_plain_network(name: str, output_stride: int, train: bool) -> None:
    facts = replace(FACTS[name], layers=tuple(min(depth, 2) for depth in FACTS[name].layers))
    arguments = {"num_classes": 10, "output_stride": output_stride, "layers": list(facts.layers), **NARROW}
    model = create(name, **arguments).train(train)
    x = images(3, 34)  # maps of 17, 9, 5, and where not dilated 3 and 2 pixels
    expected = run_reference(facts, model, x, output_stride=output_stride)
    assert_same_run(run_model(model, x), expected)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["resnest50d", "resnest50d_4s2x40d"])
def test_outputs_and_gradients_at_full_depth(name: str, output_stride: int) -> None:
    model = create(name, output_stride=output_stride)
    x = images(3, 48)
    assert_same_run(run_model(model, x), run_reference(FACTS[name], model, x, output_stride=output_stride))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", COMPARED)
def test_stock_timm_differs_where_dilated_and_only_there(name: str, output_stride: int) -> None:
    """The comparison has teeth: a network without the authors' form is told apart by several per cent."""
    theirs = materialize(stock(name, device="meta", output_stride=output_stride, **NARROW)).eval()
    x = images(2, 48)
    with torch.no_grad():
        expected = Reference(FACTS[name], theirs.state_dict(), output_stride).features(x)
        actual = theirs.forward_features(x)
    assert actual.shape == expected.shape
    assert is_same(actual, expected) == (output_stride == 32)
    difference = float((actual - expected).norm() / expected.norm())
    assert (difference > 0.02) == (output_stride != 32)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_dilated_blocks_pool_at_stride_1_and_their_shortcuts_do_not(output_stride: int) -> None:
    model = timm.create_model("resnest26d", device="meta", output_stride=output_stride)
    for index, stride in enumerate({32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}[output_stride]):
        first, *others = model.get_submodule(f"layer{index + 1}")
        assert all(block.avd_last is None and block.downsample is None for block in others)
        if index == 0:
            assert first.avd_last is None
        else:
            assert first.avd_last.stride == stride
        assert isinstance(first.downsample[0], nn.AvgPool2d) == (stride == 2)


@pytest.mark.parametrize("name", NAMES)
def test_weights_fit_a_dilated_network(name: str) -> None:
    plain = timm.create_model(name, device="meta")
    dilated = timm.create_model(name, device="meta", output_stride=8).eval()
    dilated.load_state_dict(plain.state_dict(), strict=True, assign=True)
    assert dilated.forward_features(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 2048, 8, 8)


def test_features_of_a_dilated_network_are_those_of_the_plain_network() -> None:
    facts, x = FACTS["resnest14d"], images(2, 64)
    model = create("resnest14d", output_stride=8)
    features = timm.create_model("resnest14d", features_only=True, output_stride=8, device="meta")
    assert features.feature_info.reduction() == [2, 4, 8, 8, 8]
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("fc.")}
    features.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        expected = Reference(facts, model.state_dict(), output_stride=8).features(x)
        assert_same(features.eval()(x)[-1], expected)
        assert_same(model.eval().forward_intermediates(x, indices=1)[1][0], expected)
