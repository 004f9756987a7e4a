"""Pooling and weighted sum: the numbers and gradients of the plain formula, in every type and layout."""

import pytest
import torch
from torch import Tensor, nn

from resnest_timm import SplitAttention
from resnest_timm.kernels import mixing
from tests.resnest_timm.helpers import images, randomize

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def operands(radix: int, dtype: torch.dtype, layout: str, size: tuple[int, int] = (7, 5)) -> tuple[Tensor, Tensor]:
    """Splits and weights, which need gradients."""
    generator = torch.Generator().manual_seed(radix)
    splits = torch.randn(3, radix * 6, *size, generator=generator, dtype=torch.float64)
    channels = 6 if radix == 2 else radix * 6
    weights = torch.rand(3, channels, 1, 1, generator=generator, dtype=torch.float64)
    splits = splits.to(dtype).contiguous(memory_format=LAYOUTS[layout])
    return splits.requires_grad_(), weights.to(dtype).requires_grad_()


def plain(splits: Tensor, weights: Tensor, radix: int) -> Tensor:
    """The formula, with a fifth dimension, in float64."""
    splits, weights = splits.double(), weights.double()
    if radix == 2:
        weights = torch.cat([weights, 1 - weights], dim=1)
    batch, _, height, width = splits.shape
    return (splits.view(batch, radix, -1, height, width) * weights.view(batch, radix, -1, 1, 1)).sum(1)


def scaled_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("radix", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (16, 16)], ids=str)
def test_outputs_and_gradients_are_the_formulas(
    radix: int, dtype: torch.dtype, layout: str, size: tuple[int, int]
) -> None:
    splits, weights = operands(radix, dtype, layout, size)
    gap, carriers = mixing.pool(splits, radix)
    out = mixing.mix(splits, weights, radix, carriers)
    assert out.dtype == gap.dtype == dtype
    assert gap.shape == (3, radix * 6, 1, 1)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    grad_gap = torch.randn(gap.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64).to(dtype)
    actual = torch.autograd.grad(
        [out, gap], [splits, weights], [grad.contiguous(memory_format=LAYOUTS[layout]), grad_gap]
    )

    double = [t.detach().double().requires_grad_() for t in (splits, weights)]
    reference, average = plain(*double, radix), double[0].mean((2, 3), keepdim=True)
    expected = torch.autograd.grad([reference, average], double, [grad.double(), grad_gap.double()])
    for a, e in zip((out, gap, *actual), (reference, average, *expected), strict=True):
        assert a.shape == e.shape
        assert scaled_difference(a, e) < TOLERANCE[dtype]
    if layout == "NHWC" and size[0] > 1:
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert actual[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_weighted_sum_of_a_view_that_is_not_contiguous(radix: int) -> None:
    splits, weights = operands(radix, torch.float64, "NHWC")
    view = torch.stack([splits, splits], dim=-1)[..., 1]
    assert not view.is_contiguous()
    assert scaled_difference(mixing.weighted_sum(view, weights, radix), plain(splits, weights, radix)) < 1e-12


def layer(radix: int) -> SplitAttention:
    return randomize(SplitAttention(12, radix=radix, norm_layer=nn.BatchNorm2d, dtype=torch.float64)).train()


@pytest.mark.parametrize("radix", [1, 2, 3])
def test_gradients_of_gradients(radix: int) -> None:
    """A gradient penalty, for instance: create_graph takes the way that autograd can follow."""
    module = layer(radix)
    assert torch.autograd.gradgradcheck(module, (images(3, 2, channels=12).requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("radix", [1, 2, 3])
def test_backward_twice_and_in_parts_gives_the_same(radix: int) -> None:
    module, x = layer(radix), images(3, 5, channels=12).requires_grad_()
    out = module(x).square().sum()
    leaves = [x, module.conv.weight, module.fc1.weight, module.fc2.bias]
    every = torch.autograd.grad(out, leaves, retain_graph=True)
    for index in (2, 0, 3, 1):  # some without the gradient of the splits, then again with it
        (part,) = torch.autograd.grad(out, leaves[index], retain_graph=True)
        torch.testing.assert_close(part, every[index], rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(out, leaves), every, rtol=0, atol=0)


@pytest.mark.parametrize("radix", [1, 2, 3])
def test_recomputation_gives_the_same(radix: int) -> None:
    module, x = layer(radix), images(3, 5, channels=12).requires_grad_()
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    for reentrant in (False, True):
        out = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=reentrant)
        x.grad = None
        out.square().sum().backward()
        torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", ["conv", "fc1", "fc2"])
def test_frozen_parts_leave_the_other_gradients_alone(frozen: str) -> None:
    module, x = layer(2), images(3, 5, channels=12)
    module(x).square().sum().backward()
    expected = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    getattr(module, frozen).requires_grad_(False)
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        if name.startswith(frozen):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_eval_mode_and_compilers_get_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Function transforms work there, and compilers fuse better."""
    monkeypatch.setattr(mixing, "pool", lambda splits, radix: pytest.fail("the eager training's way"))
    x, module = images(3, 5, channels=12), layer(2).eval()
    grads = torch.func.vmap(torch.func.grad(lambda image: module(image[None]).sum()))(x)
    torch.testing.assert_close(grads, torch.autograd.functional.jacobian(lambda x: module(x).sum(), x))
    torch.compile(layer(2), backend="eager", fullgraph=True)(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_average_is_as_exact_as_the_type(dtype: torch.dtype, layout: str) -> None:
    """Summed in float32, not in 8 bits: 3,136 values of about 100 would stop growing long before the end."""
    x = (100 + torch.randn(2, 5, 56, 56, generator=torch.Generator().manual_seed(0))).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    expected = x.double().mean((2, 3), keepdim=True)
    assert scaled_difference(mixing.global_average(x), expected) < 2 * torch.finfo(dtype).eps
