"""OpenVINO's own form, a .xml file and its weights in a .bin file: written and run by OpenVINO."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.export.network import Array, Network, Precision

SECTION = "finetune"
"""Of `rt_info`, where OpenVINO keeps what is not the network itself."""

_HINTS = {"32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"


def library() -> Any:
    """The module `openvino`, imported as it is where its package `openvino_telemetry` is not installed.

    With that package each import and each conversion is told to the makers' account at an analytics service, unless
    the user has refused it before; without it OpenVINO uses a stand-in that does nothing.
    """
    if "openvino" not in sys.modules:
        before = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
        try:
            import openvino  # noqa: F401
        finally:
            del sys.modules[_TELEMETRY]
            if before is not None:
                sys.modules[_TELEMETRY] = before
    return sys.modules["openvino"]


def save(model: nn.Module, path: Path, metadata: Mapping[str, str], pixels: Tensor) -> None:
    """Write two files with a dynamic batch and float32 weights: `pixels` -> `logits`.

    Args:
        model: In eval mode, float32, on the CPU.
        path: `*.xml`; the weights go to `*.bin`.
        metadata: Text by name.
        pixels: float32 `[n, 3, H, W]`, an example.
    """
    openvino = library()
    example = (pixels[:1].repeat(2, 1, 1, 1),)  # two: a batch of one is taken for a constant
    program = torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
    network = openvino.convert_model(program)
    network.reshape([-1, *pixels.shape[1:]])  # else the sides would be dynamic, too, and the network slower
    network.inputs[0].get_tensor().set_names({"pixels"})
    network.outputs[0].get_tensor().set_names({"logits"})
    for name, text in metadata.items():
        network.set_rt_info(text, [SECTION, name])
    openvino.save_model(network, path, compress_to_fp16=False)


def load(path: Path, precision: Precision = "32", threads: int | None = None, batch_size: int | None = None) -> Network:
    """Open a file.

    Args:
        path: `*.xml`, with `*.bin` beside it.
        precision: Of the arithmetic. OpenVINO itself takes bfloat16 where the CPU has it, whose logits are others.
        threads: Cores to compute with; OpenVINO's choice when not given.
        batch_size: Most batches' size: for it the network is compiled a second time, 6 % faster in float32 and 13 % in
            bfloat16 (resnest50d, 8 images of 224 px, one thread of an AMD EPYC).
    """
    openvino = library()
    core = openvino.Core()
    network = core.read_model(path)
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    _, *sides = network.inputs[0].get_partial_shape()

    @functools.cache
    def request(size: int) -> Any:
        """Compiled for a batch size; -1 is any."""
        network.reshape([size, *sides])
        return core.compile_model(network, "CPU", settings).create_infer_request()

    def run(pixels: Array) -> Array:
        (logits,) = request(batch_size if batch_size == len(pixels) else -1).infer([pixels]).values()
        found: Array = logits
        return found

    return Network(_metadata(network), run)


def _metadata(network: Any) -> dict[str, str]:
    if not network.has_rt_info([SECTION]):
        return {}
    names = network.get_rt_info([SECTION]).value
    return {name: network.get_rt_info([SECTION, name]).astype(str) for name in names}
