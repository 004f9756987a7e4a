"""Compiles the Triton kernels to GPU machine code without a GPU and prints what came out as JSON.

A program of its own, started by `test_triton_mixing.py`. What is compiled are the launches of one split attention as
in ResNet's first stage (64 channels, 56 x 56 pixels) and in its last (7 x 7), caught before they reach a device.
"""

import itertools
import json
import re

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from resnest_timm.kernels import triton

KERNELS = ("_sum_kernel", "_weighted_sum_kernel", "_splits_gradient_kernel")
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Catcher:
    """Takes a kernel's place and keeps what it is launched with."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, []

    def __getitem__(self, grid):
        return lambda *args, **constants: self.launches.append((args, constants))


def source(kernel, args, constants):
    """What Triton's just-in-time compiler makes of a launch: types, ones as constants, multiples of 16."""
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, attributes = {}, {}
    for index, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        if torch.is_tensor(value):
            signature[name] = POINTERS[value.dtype]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        if torch.is_tensor(value) or (isinstance(value, int) and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= {name: "constexpr" for name in constants if name not in signature}
    return ASTSource(kernel, signature, constants, attributes)


def launches(dtype, memory_format, radix, size):
    """The launches of one forward and backward pass."""
    channels = 64 if size > 7 else 40
    splits = torch.empty(32, radix * channels, size, size, dtype=dtype, device="meta", memory_format=memory_format)
    grad = torch.empty(32, channels, size, size, dtype=dtype, device="meta", memory_format=memory_format)
    every = torch.empty(32, radix * channels, 1, 1, dtype=dtype, device="meta")
    catchers = {name: Catcher(getattr(triton, name)) for name in KERNELS}
    vars(triton).update(catchers)
    triton.global_average(splits)
    triton.weighted_sum(splits, every[:, :channels] if radix == 2 else every, radix)
    triton.weights_gradient(grad, splits, radix)
    triton.splits_gradient(grad, every, every)
    vars(triton).update({name: catcher.kernel for name, catcher in catchers.items()})
    return [(catcher.kernel, *launch) for catcher in catchers.values() for launch in catcher.launches]


def main():
    found = []
    formats = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    cases = list(itertools.product((torch.float32, torch.bfloat16), formats, [2], [56], [90]))
    cases += [(torch.float16, "NHWC", 2, 56, 80), (torch.bfloat16, "NCHW", 4, 7, 90)]
    cases += [(torch.bfloat16, "NHWC", 1, 7, 80)]
    for dtype, layout, radix, size, architecture in cases:
        for kernel, args, constants in launches(dtype, formats[layout], radix, size):
            target = GPUTarget("cuda", architecture, 32)
            options = dict(triton.OPTIONS)
            assembled = compile(source(kernel, args, constants), target=target, options=options).asm
            ptx = assembled["ptx"]
            found.append(
                {
                    "kernel": kernel.fn.__name__,
                    "case": f"{str(dtype).removeprefix('torch.')} {layout} {radix} {size} sm_{architecture}",
                    "reads_maps": args[1].dim() == 4 and args[1].shape[2] == size,
                    "bytes": len(assembled["cubin"]),
                    "loads": sorted(set(re.findall(r"ld\.global[\w.:]*", ptx))),
                    "stores": sorted(set(re.findall(r"st\.global[\w.:]*", ptx))),
                    "atomics": bool(re.findall(r"\b(?:atom|red)\.", ptx)),
                }
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
