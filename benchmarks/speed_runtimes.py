"""Networks as `python -m finetune export` writes them, in the libraries that run such files on CPUs."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.export.formats import named

RUNTIMES = {"OpenVINO": "openvino", "onnxruntime": "onnx"}
"""Library -> `--format` of the files that it runs."""

_DTYPES = {"OpenVINO": ("fp32", "bf16"), "onnxruntime": ("fp32",)}  # onnxruntime has no bf16 convolutions on CPUs


def at_hand(dtype: str) -> list[str]:
    """Those that are installed and compute in a dtype, `fp32` or `bf16`."""
    found = []
    for library, name in RUNTIMES.items():
        packages = (*named(name).writes, named(name).runs)
        if dtype in _DTYPES[library] and all(importlib.util.find_spec(package) for package in packages):
            found.append(library)
    return found


def exported_call(library: str, network: nn.Module, images: Tensor, dtype: str) -> Callable[[], Tensor]:
    """Export a network, and call it on these images with as many threads as PyTorch has.

    Args:
        library: One of `RUNTIMES`.
        network: float32, on the CPU.
        images: float32 `[B, 3, H, W]`.
        dtype: `fp32` or `bf16`.
    """
    form, pixels = named(RUNTIMES[library]), images.numpy()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        path = Path(folder, form.file)
        form.save(copy.deepcopy(network).eval(), path, {}, images)
        run = form.open(path, "bf16" if dtype == "bf16" else "32", torch.get_num_threads(), len(images)).run
        run(pixels)  # the weights are read with the first batch
    return lambda: torch.from_numpy(run(pixels))
