"""What the package is compared with: facts typed by hand, stock timm's own classes, and a plain network of our own.

Nothing here imports `resnest_timm`: a child process that must not know it imports this module too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import resnest as stock_resnest
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet
from torch import Tensor, nn


@dataclass(frozen=True)
class Facts:
    """A variant as published; `gmac` counts convolutions and linear layers at `size` pixels."""

    layers: tuple[int, int, int, int]
    stem: int
    radix: int
    cardinality: int
    width: int
    avd_first: bool
    params: float
    gmac: float
    size: int
    in_timm: bool = False


R50 = (3, 4, 6, 3)
FACTS = {
    "resnest14d": Facts((1, 1, 1, 1), 32, 2, 1, 64, False, 10.612, 2.75, 224, True),
    "resnest26d": Facts((2, 2, 2, 2), 32, 2, 1, 64, False, 17.069, 3.62, 224, True),
    "resnest50d": Facts(R50, 32, 2, 1, 64, False, 27.483, 5.37, 224, True),
    "resnest101e": Facts((3, 4, 23, 3), 64, 2, 1, 64, False, 48.275, 13.3, 256, True),
    "resnest200e": Facts((3, 24, 36, 3), 64, 2, 1, 64, False, 70.202, 35.5, 320, True),
    "resnest269e": Facts((3, 30, 48, 8), 64, 2, 1, 64, False, 110.929, 77.4, 416, True),
    "resnest50_fast_1s1x64d": Facts(R50, 32, 1, 1, 64, True, 26.218, 4.33, 224),
    "resnest50_fast_2s1x64d": Facts(R50, 32, 2, 1, 64, True, 27.483, 4.33, 224),
    "resnest50_fast_4s1x64d": Facts(R50, 32, 4, 1, 64, True, 31.913, 4.34, 224),
    "resnest50_fast_1s2x40d": Facts(R50, 32, 1, 2, 40, True, 25.947, 4.37, 224),
    "resnest50_fast_2s2x40d": Facts(R50, 32, 2, 2, 40, True, 26.944, 4.37, 224),
    "resnest50d_4s2x40d": Facts(R50, 32, 4, 2, 40, True, 30.418, 4.37, 224, True),
    "resnest50d_1s4x24d": Facts(R50, 32, 1, 4, 24, True, 25.677, 4.40, 224, True),
    "resnest101_fast": Facts((3, 4, 23, 3), 64, 2, 1, 64, True, 48.275, 9.16, 224),
    "resnest152": Facts((3, 8, 36, 3), 64, 2, 1, 64, False, 65.316, 13.9, 224),
}
NAMES = tuple(FACTS)

KINDS = tuple({(f.stem, f.radix, f.cardinality, f.width, f.avd_first): name for name, f in FACTS.items()}.values())
"""One variant of each kind: the others differ from it in depth alone."""

NARROW: dict[str, Any] = {"channels": (32, 64, 128, 256)}
"""Arguments that halve the width: what depends on form and depth alone is tested so, at a quarter of the cost."""

SHALLOW: dict[str, Any] = {**NARROW, "layers": [2, 1, 1, 1], "num_classes": 10}
"""Arguments that leave one block of every sort in a variant of any depth: a test of all KINDS stays cheap."""


def stock(name: str, **kwargs: Any) -> ResNet:
    """The variant in stock timm's classes; its own function where it has one, although the registry is taken over."""
    facts = FACTS[name]
    if facts.in_timm:
        return getattr(stock_resnest, name)(**kwargs)
    arguments: dict[str, Any] = {
        "layers": list(facts.layers),
        "stem_type": "deep",
        "stem_width": facts.stem,
        "avg_down": True,
        "base_width": facts.width,
        "cardinality": facts.cardinality,
        "block_args": {"radix": facts.radix, "avd": True, "avd_first": facts.avd_first},
    }
    return ResNet(ResNestBottleneck, **{**arguments, **kwargs})


def create(name: str, **kwargs: Any) -> ResNet:
    """The variant from the registry, with weights by `randomize`."""
    return materialize(timm.create_model(name, device="meta", **kwargs))


def materialize(model: ResNet, dtype: torch.dtype = torch.float64) -> ResNet:
    """Give a model built on the device `meta` memory and the weights by `randomize`."""
    return randomize(model.to(dtype).to_empty(device="cpu"))


def randomize(model: ResNet) -> ResNet:
    """Fill everything in the state dict: the same values for the same architecture.

    No norm is left as it starts: timm's zeros in each block's last norm make any two blocks equal to their shortcuts.
    That norm stays below 1, so that the deepest variants do not amplify rounding.
    """
    noise = torch.randn(1_000_003, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = 0

    def fill(tensor: Tensor, scale: float, offset: float = 0.0) -> None:
        nonlocal start
        count, start = tensor.numel(), (start + 7919) % noise.numel()
        drawn = noise if count + start <= noise.numel() else noise.repeat(2 + count // noise.numel())
        tensor.copy_(drawn[start : start + count].view(tensor.shape)).mul_(scale).add_(offset)

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                last = name.endswith("bn3")
                fill(module.weight, 0.05, 0.15 if last else 1.0)
                fill(module.bias, 0.2)
                fill(module.running_mean, 0.2)
                fill(module.running_var, 0.3, 1.0)
                module.running_var.abs_().add_(0.1)
                module.num_batches_tracked.zero_()
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fill(module.weight, module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    fill(module.bias, 0.2)
    return model


def images(batch: int, size: int, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise of another brightness and contrast in each image, `[batch, channels, size, size]`.

    Alike, their averages over the pixels would be too: BatchNorm within the split attention would amplify rounding.
    """
    generator = torch.Generator().manual_seed(1)
    brightness, contrast = torch.randn(2, batch, channels, 1, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(batch, channels, size, size, dtype=torch.float64, generator=generator)
    return (noise * contrast.exp() + brightness).to(dtype)


Run = tuple[Tensor, dict[str, Tensor]]


def run(function: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor], x: Tensor) -> Run:
    """Output, and gradients of a random projection of it: of the input (key `input`) and of each parameter."""
    x = x.detach().clone().requires_grad_()
    out = function(x)
    seed = torch.Generator().manual_seed(2)
    projection = torch.randn(out.shape, dtype=torch.float64, generator=seed).to(out.dtype)
    names, tensors = zip(*parameters.items(), strict=True)
    gradients = torch.autograd.grad(out, (x, *tensors), projection)
    return out.detach(), dict(zip(("input", *names), gradients, strict=True))


def run_model(model: nn.Module, x: Tensor) -> Run:
    """`run` of a model and its parameters."""
    return run(model, dict(model.named_parameters()), x)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-9, scale: float | None = None) -> None:
    """Equal up to `relative` times the largest expected value, or `scale`; not a number is never equal."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    actual, expected = actual.detach(), expected.detach()
    scale = float(expected.abs().max()) if scale is None else scale
    assert scale > 0
    assert float((actual - expected).abs().max()) <= relative * scale


def assert_same_run(actual: Run, expected: Run, relative: float = 1e-9) -> None:
    """Equal outputs and equal gradients, each relative to the largest value in its tensor.

    A bias in front of a norm has a gradient of exactly zero, hence of mere rounding: it is held to the scale of the
    weight beside it.
    """
    assert_same(actual[0], expected[0], relative)
    assert actual[1].keys() == expected[1].keys()
    scales = {name: float(gradient.abs().max()) for name, gradient in expected[1].items()}
    for name, gradient in expected[1].items():
        beside = scales[name.removesuffix("bias") + "weight"] if name.endswith(".bias") else 0.0
        assert_same(actual[1][name], gradient, relative, max(scales[name], beside))


def is_same(actual: Tensor, expected: Tensor, relative: float = 1e-9) -> bool:
    """Whether `assert_same` holds."""
    return float((actual - expected).detach().abs().max()) <= relative * float(expected.detach().abs().max())


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The plain BatchNorms by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def norms_of_single_values(model: ResNet, size: int) -> set[str]:
    """Norms that see 1x1 maps, found with a pair of images, which nothing treats specially; leaves eval mode."""
    single = set()

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            if inputs[0].shape[2:] == (1, 1):
                single.add(name)

        return hook

    handles = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms(model).items()]
    with torch.no_grad():
        model.eval()(torch.zeros(2, 3, size, size, dtype=next(model.parameters()).dtype))
    for handle in handles:
        handle.remove()
    return single


STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}
DILATIONS = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}


class Reference:
    """The authors' network written out once more, as plain functions of a state dict.

    Args:
        facts: The variant.
        state: Its state dict; outputs are differentiable with respect to its tensors.
        output_stride: 32, 16 or 8.
        training: Normalise by the batch's statistics.
        act: Activation.
    """

    def __init__(
        self,
        facts: Facts,
        state: Mapping[str, Tensor],
        output_stride: int = 32,
        training: bool = False,
        act: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        self.facts, self.state, self.output_stride, self.training, self.act = facts, state, output_stride, training, act

    def conv(self, name: str, x: Tensor, **kwargs: Any) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **kwargs)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        columns = (1, -1, 1, 1)
        x = (x - mean.view(columns)) / (var.view(columns) + 1e-5).sqrt()
        return x * weight.view(columns) + bias.view(columns)

    def split_attention(self, name: str, x: Tensor, dilation: int) -> Tensor:
        radix, groups = self.facts.radix, self.facts.cardinality
        x = self.conv(f"{name}.conv", x, padding=dilation, dilation=dilation, groups=groups * radix)
        x = self.act(self.norm(f"{name}.bn0", x))
        splits = x.unflatten(1, (radix, groups, -1))  # [B, R, K, C / K, H, W]
        gap = splits.sum(1).mean((-2, -1)).flatten(1)[..., None, None]
        hidden = self.act(self.norm(f"{name}.bn1", self.conv(f"{name}.fc1", gap, groups=groups)))
        logits = self.conv(f"{name}.fc2", hidden, groups=groups).flatten(1).unflatten(1, (groups, radix, -1))
        weights = logits.softmax(2) if radix > 1 else logits.sigmoid()  # [B, K, R, C / K]
        return torch.einsum("brkchw,bkrc->bkchw", splits, weights).flatten(1, 2)

    def block(self, name: str, x: Tensor, stride: int, dilation: int, is_first: bool, projects: bool) -> Tensor:
        def pool(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 3, stride, padding=1) if stride > 1 or is_first else x

        out = self.act(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x)))
        out = pool(out) if self.facts.avd_first else out
        out = self.split_attention(f"{name}.conv2", out, dilation)
        out = out if self.facts.avd_first else pool(out)
        out = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", out))
        if projects:
            x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            x = self.norm(f"{name}.downsample.2", self.conv(f"{name}.downsample.1", x))
        return self.act(out + x)

    def features(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, 2048, H / output_stride, W / output_stride]`."""
        x = self.act(self.norm("conv1.1", self.conv("conv1.0", x, stride=2, padding=1)))
        x = self.act(self.norm("conv1.4", self.conv("conv1.3", x, padding=1)))
        x = self.act(self.norm("bn1", self.conv("conv1.6", x, padding=1)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        previous = 1
        stages = zip(self.facts.layers, STRIDES[self.output_stride], DILATIONS[self.output_stride], strict=True)
        for stage, (depth, stride, dilation) in enumerate(stages, start=1):
            x = self.block(f"layer{stage}.0", x, stride, previous, is_first=stage > 1, projects=True)
            for index in range(1, depth):
                x = self.block(f"layer{stage}.{index}", x, 1, dilation, is_first=False, projects=False)
            previous = dilation
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, num_classes]`."""
        return F.linear(self.features(x).mean((2, 3)), self.state["fc.weight"], self.state["fc.bias"])


def run_reference(facts: Facts, model: ResNet, x: Tensor, **kwargs: Any) -> Run:
    """`run` of the reference with the weights of `model`, in its mode."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    parameters = {name: state[name].requires_grad_() for name, _ in model.named_parameters()}
    return run(Reference(facts, state, training=model.training, **kwargs), parameters, x)
