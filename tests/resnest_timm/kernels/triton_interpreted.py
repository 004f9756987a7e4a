"""Runs the Triton kernels on the CPU, in Triton's interpreter, and prints what came out as JSON.

A program of its own, started by `test_triton_mixing.py`: Triton reads TRITON_INTERPRET when a kernel is defined.
"""

import copy
import itertools
import json
import os
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import nn

from resnest_timm import SplitAttention
from resnest_timm.kernels import fused, mixing, triton
from tests.resnest_timm.helpers import images, randomize

FUNCTIONS = ("global_average", "weighted_sum", "_weights_gradient", "_splits_gradient")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "channel_slice", "last_channel_slice", "permuted", "broadcast")
SHAPES = {
    "odd": (2, 5, 9, 7),
    "one pixel": (3, 5, 1, 1),
    "one channel": (2, 1, 3, 5),
    "column": (1, 3, 6, 1),
    "several channel tiles": (1, 131, 2, 3),
    "chunks of pixels": (1, 2, 41, 53),
}
MARGIN = 5000
generator = torch.Generator().manual_seed(0)


def guarded(shape, stride, dtype):
    """Memory for a tensor amid values that are not numbers, and that memory whole."""
    reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    memory = torch.full((reach + 2 * MARGIN,), torch.nan, dtype=dtype)
    return memory.as_strided(shape, stride, MARGIN), memory


def noise(shape, dtype, layout="contiguous"):
    """Random numbers in a layout; whatever is read beside them is not a number."""
    batch, channels, height, width = shape
    area = height * width
    strides = {
        "contiguous": (channels * area, area, width, 1),
        "channels_last": (channels * area, 1, width * channels, channels),
        "channel_slice": ((channels + 3) * area, area, width, 1),
        "last_channel_slice": ((channels + 3) * area, 1, width * (channels + 3), channels + 3),
        "permuted": (area, batch * area, width, 1),
        "broadcast": (0, 0, 0, 0),
        "cropped": (channels * 2 * area, 2 * area, width + 1, 1),
    }
    out, _ = guarded(shape, strides[layout], dtype)
    if layout == "broadcast":
        return out.fill_(0.7)
    return out.copy_(torch.randn(shape, dtype=torch.float64, generator=generator))


def arguments(function, shape, dtype, radix, layout, others=None):
    batch, channels, height, width = shape
    others = others or dtype
    splits = noise((batch, radix * channels, height, width), dtype, layout)
    every = noise((batch, radix * channels, 1, 1), others).abs_()
    if function == "global_average":
        return (splits,)
    if function == "weighted_sum":
        return splits, every[:, :channels] if radix == 2 else every, radix
    grad = noise(shape, dtype, layout)
    if function == "_weights_gradient":
        if layout == "broadcast":  # as the gradient of a sum is; two equal splits would have no difference
            splits = noise(splits.shape, dtype)
        return grad, splits, radix
    return grad, every, noise((batch, radix * channels, 1, 1), others) if radix != 3 else None


def call(function, values):
    """The kernel's answer, and whether it wrote outside of what it allocated."""
    memories, empty = [], torch.empty

    def allocate(shape, dtype, device, memory_format=torch.contiguous_format):
        stride = empty(shape, device="meta", memory_format=memory_format).stride()
        out, memory = guarded(shape, stride, dtype)
        memories.append((memory, out.numel()))
        return out

    with mock.patch.object(triton.torch, "empty", allocate):
        out = getattr(triton, function.removeprefix("_"))(*values)
    outside = any(not m[:MARGIN].isnan().all() or not m[MARGIN + count :].isnan().all() for m, count in memories)
    return out, outside


def compare(function, values):
    """With the plain function in float64 on the same values; the error is relative to the largest value."""
    plain = getattr(mixing, function).__wrapped__
    expected = plain(*(v.double() if torch.is_tensor(v) else v for v in values))
    out, outside = call(function, values)
    formats = (torch.contiguous_format, torch.channels_last)
    return {
        "error": float((out.double() - expected).abs().max() / expected.abs().max()),
        "shape": out.shape == expected.shape,
        "dtype": str(out.dtype).removeprefix("torch."),
        "formats": all(out.is_contiguous(memory_format=f) == expected.is_contiguous(memory_format=f) for f in formats),
        "outside": outside,
        "repeats": torch.equal(out, call(function, values)[0]),
    }


def numbers():
    """Every dtype with every radix, every layout and every shape."""
    found = {}
    grid = list(itertools.product(["odd"], DTYPES[1:], LAYOUTS[:2], (1, 2, 3, 4)))
    grid += itertools.product(["odd"], DTYPES[:1], LAYOUTS, (1, 2, 3, 4))
    grid += itertools.product(list(SHAPES)[1:], (torch.float32,), LAYOUTS[:2], (1, 2, 3))
    for (shape, dtype, layout, radix), function in itertools.product(grid, FUNCTIONS):
        name = f"{function} {shape} {str(dtype).removeprefix('torch.')} {layout} {radix}"
        found[name] = compare(function, arguments(function, SHAPES[shape], dtype, radix, layout))
    return found


def mixed():
    """The small tensors (for the gradient of the weights: the gradient) in another dtype than the map."""
    found = {}
    for function, radix in itertools.product(FUNCTIONS[1:], (1, 2, 3)):
        values = list(arguments(function, SHAPES["odd"], torch.bfloat16, radix, "channels_last", torch.float32))
        if function == "_weights_gradient":
            values[0] = noise(SHAPES["odd"], torch.float32, "contiguous")
        found[f"{function} {radix}"] = compare(function, values)
    return found


def refused():
    """What the kernels are not made for: all of these must be None."""
    t = torch.ones
    cropped = noise((2, 6, 4, 5), torch.float32, "cropped")
    return {
        "average of a crop": triton.global_average(cropped),
        "average of 3 dimensions": triton.global_average(t(2, 3, 4)),
        "sum of a crop": triton.weighted_sum(cropped, t(2, 6, 1, 1), 3),
        "sum with weights for all images": triton.weighted_sum(t(2, 6, 4, 5), t(1, 6, 1, 1), 3),
        "sum with weights of the first split": triton.weighted_sum(t(2, 6, 4, 5), t(2, 2, 1, 1), 3),
        "sum of channels that do not divide": triton.weighted_sum(t(2, 5, 4, 5), t(2, 2, 1, 1), 2),
        "weights of a cropped gradient": triton.weights_gradient(cropped, t(2, 12, 4, 5), 2),
        "weights of other pixels": triton.weights_gradient(t(2, 3, 4, 5), t(2, 6, 5, 4), 2),
        "splits of a crop": triton.splits_gradient(cropped, t(2, 12, 1, 1), None),
        "splits with a spread for all images": triton.splits_gradient(t(2, 3, 4, 5), t(2, 6, 1, 1), t(1, 6, 1, 1)),
        "splits with weights that do not divide": triton.splits_gradient(t(2, 3, 4, 5), t(2, 5, 1, 1), None),
    }


def far():
    """Values more than 2 ** 31 from the first, of which only those used ever get memory."""
    step = 2**30
    memory = torch.empty(2 * step + 64, dtype=torch.float16)
    far = memory.as_strided((1, 3, 4, 5), (0, step, 5, 1))
    far.copy_(noise(far.shape, torch.float16))
    weights = noise((1, 3, 1, 1), torch.float16)
    grad = noise((1, 1, 4, 5), torch.float16)
    values = {
        "global_average": (far,),
        "weighted_sum": (far, weights, 3),
        "_weights_gradient": (grad, far, 3),
        "_splits_gradient": (far, weights, None),
    }
    found = {}
    for function, given in values.items():
        near = [v.contiguous() if torch.is_tensor(v) else v for v in given]
        found[function] = torch.equal(call(function, given)[0], call(function, near)[0])
    return found


def step(layer, x):
    """Outputs, and gradients of a random projection of them for the input and the parameters."""
    x = x.detach().requires_grad_()
    out = layer(x)
    projection = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(out, (x, *layer.parameters()), projection.to(out))
    return [out.detach(), *gradients]


def layers():
    """Whole split attention in float32 with the kernels, against float64 without: outputs and all gradients."""
    found = {}
    names = [name.removeprefix("_") for name in FUNCTIONS]
    fused.MIN_VALUES = 0
    cases = itertools.product((1, 2, 4), (1, 2), (torch.contiguous_format, torch.channels_last), (True, False))
    for radix, cardinality, memory_format, train in cases:
        exact = randomize(SplitAttention(8, groups=cardinality, radix=radix, norm_layer=nn.BatchNorm2d).double())
        layer = copy.deepcopy(exact).float().to(memory_format=memory_format).train(train)
        x = images(3, 5, channels=8)
        spies = {name: mock.Mock(wraps=getattr(triton, name)) for name in names}
        with mock.patch.object(fused, "is_on_gpu", return_value=True), mock.patch.multiple(triton, **spies):
            actual = step(layer, x.float().to(memory_format=memory_format))
            recording = [spy.call_count for spy in spies.values()]
            with torch.no_grad():
                layer.eval()(x.float())
        expected = step(exact.train(train), x)
        scale = max(float(gradient.abs().max()) for gradient in expected[1:])
        errors = [relative(actual[0], expected[0])]
        errors += [float((a - e).abs().max()) / scale for a, e in zip(actual[1:], expected[1:], strict=True)]
        name = f"{radix} {cardinality} {str(memory_format).removeprefix('torch.')} {'train' if train else 'eval'}"
        silent = [spy.call_count - count for spy, count in zip(spies.values(), recording, strict=True)]
        found[name] = {"error": max(errors), "recording": recording, "no_grad": silent}
    return found


def relative(actual, expected):
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def main():
    found = {"numbers": numbers(), "mixed": mixed(), "far": far()}
    found["refused"] = {name: out is None for name, out in refused().items()}
    found["layers"] = layers()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
