"""Split attention by itself: stock timm's numbers, the formula, its gradients, its memory layout and its types."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SplitAttn
from torch import Tensor, nn

from resnest_timm import SplitAttention
from resnest_timm.split_attention import _warn_running_statistics
from tests.resnest_timm.helpers import FACTS, Reference, assert_same, assert_same_run, images, randomize, run, run_model

SHAPES = [(radix, cardinality) for radix in (1, 2, 4) for cardinality in (1, 2, 4)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"out_channels": 24, "kernel_size": 1, "padding": 0},
    {"out_channels": 16, "kernel_size": 5, "stride": 2},
    {"stride": 2, "padding": 2, "dilation": 2, "bias": True},
    {"norm_layer": None},
]


def attention(radix: int, cardinality: int = 1, channels: int = 16, **kwargs: Any) -> SplitAttention:
    kwargs = {"norm_layer": nn.BatchNorm2d, **kwargs}
    return randomize(SplitAttention(channels, groups=cardinality, radix=radix, dtype=torch.float64, **kwargs))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize(("radix", "cardinality"), SHAPES)
def test_outputs_and_gradients_equal_stock_timm(
    radix: int, cardinality: int, options: dict[str, Any], train: bool
) -> None:
    ours = attention(radix, cardinality, **options).train(train)
    kwargs = {"norm_layer": nn.BatchNorm2d, **options}
    theirs = SplitAttn(16, groups=cardinality, radix=radix, dtype=torch.float64, **kwargs).train(train)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(3, 7, channels=16)
    assert_same_run(run_model(ours, x), run_model(theirs, x))


@pytest.mark.parametrize("channels", [4, 16, 40, 64, 72, 128, 136])
@pytest.mark.parametrize("radix", [1, 2, 4])
def test_attention_channels_are_stock_timms(channels: int, radix: int) -> None:
    ours, theirs = SplitAttention(channels, radix=radix), SplitAttn(channels, radix=radix)
    assert ours.fc1.weight.shape == theirs.fc1.weight.shape
    assert ours.fc1.out_channels >= 32


@pytest.mark.parametrize(("radix", "cardinality"), SHAPES)
def test_outputs_and_gradients_equal_the_formula(radix: int, cardinality: int) -> None:
    ours = attention(radix, cardinality)
    facts = replace(FACTS["resnest14d"], radix=radix, cardinality=cardinality)
    state = {f"block.{key}": tensor.detach().clone() for key, tensor in ours.state_dict().items()}
    parameters = {name: state[f"block.{name}"].requires_grad_() for name, _ in ours.named_parameters()}
    x = images(3, 7, channels=16)
    plain = Reference(facts, state, training=True)
    expected = run(lambda x: plain.split_attention("block", x, dilation=1), parameters, x)
    assert_same_run(run_model(ours, x), expected)


@pytest.mark.parametrize(("radix", "cardinality"), SHAPES)
def test_weights_of_the_splits_sum_to_1(radix: int, cardinality: int) -> None:
    """And differ between splits, channels and images; a single split has a gate between 0 and 1."""
    layer = attention(radix, cardinality).eval()
    with torch.no_grad():
        weights = layer.attention(images(2, 5, channels=16 * radix))
    assert weights.shape == (2, 16 * radix, 1, 1)
    assert weights.unique().numel() == weights.numel()
    assert 0 < weights.min() < weights.max() < 1
    if radix > 1:
        torch.testing.assert_close(weights.view(2, radix, 16).sum(1), torch.ones(2, 16, dtype=torch.float64))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("cardinality", [1, 2])
@pytest.mark.parametrize("radix", [1, 2, 4])
def test_gradients_are_those_of_finite_differences(radix: int, cardinality: int, train: bool) -> None:
    layer = attention(radix, cardinality, channels=8).train(train)
    names = list(dict(layer.named_parameters()))

    def function(x: Tensor, *tensors: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    inputs = (images(3, 3, channels=8).requires_grad_(), *layer.parameters())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(layer, inputs[:1])


@pytest.mark.parametrize(("radix", "cardinality"), [(1, 1), (2, 1), (4, 1), (2, 2)])
def test_channels_last_stays_channels_last(radix: int, cardinality: int) -> None:
    """Stock timm's sum over the splits loses the layout, which costs it two thirds of its speed."""
    layer = attention(radix, cardinality)
    x = images(2, 6, channels=16)
    expected = layer(x)
    layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    actual = layer(x)
    assert_same(actual, expected)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert not actual.is_contiguous()


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_reduced_precision_keeps_its_type(radix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, autocast computes the softmax in float32, as this one does: the output is bfloat16 all the same."""
    softmax = F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, dim: softmax(x.float(), dim=dim))
    layer, x = attention(radix).float(), images(3, 8, channels=16, dtype=torch.float32)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        actual = layer(x)
    assert actual.dtype == torch.bfloat16
    assert_same(actual.float(), expected, 0.03)
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_same(half.float(), expected, 0.05)


def test_layers_given_are_used_in_order() -> None:
    calls: list[str] = []

    class Recorder(nn.Identity):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            calls.append(f"{self.name} {x.shape[1]}")
            return x

    layer = SplitAttention(
        8,
        16,
        radix=2,
        act_layer=lambda inplace: Recorder(f"act {inplace}"),
        norm_layer=lambda channels, **kwargs: Recorder(f"norm {channels}"),
        drop_layer=lambda: Recorder("drop"),
    )
    assert layer(torch.randn(1, 8, 4, 4)).shape == (1, 16, 4, 4)
    assert calls == ["norm 32 32", "drop 32", "act True 32", "norm 32 32", "act True 32"]


@pytest.mark.parametrize("radix", [0, -1])
def test_radix_below_1_is_refused(radix: int) -> None:
    with pytest.raises(ValueError, match=f"radix must be at least 1, got {radix}; a plain convolution"):
        SplitAttention(8, radix=radix)


@pytest.mark.parametrize("radix", [1, 2])
def test_one_image_in_train_mode_has_gradients_of_its_own(radix: int) -> None:
    """The bottleneck's norm uses its running statistics: gradients flow, where the batch's own would stop them."""
    layer, x = attention(radix), images(1, 5, channels=16)
    _warn_running_statistics.cache_clear()
    with pytest.warns(UserWarning, match="one image in train mode"):
        actual = run_model(layer, x)
    layer.bn1.eval()
    assert_same_run(actual, run_model(layer, x))
    assert actual[1]["fc1.weight"].abs().max() > 0
