"""ONNX: written by torch's exporter, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ConfigError
from finetune.export.network import Array, Network, Precision

_LARGEST = 1_900_000_000
"""Bytes of weights that go into one file; a protobuf message holds less than 2 GiB."""
_OPSET = 17
"""Of `save_traced`: of 2022, read by every runtime of today; from 16 on it has torchvision's pooling of regions."""
_ERRORS = 3
"""onnxruntime's level: its warnings are of shapes that are right at run time."""


def save(model: nn.Module, path: Path, metadata: Mapping[str, str], pixels: Tensor) -> None:
    """Write a file with a dynamic batch: `pixels` -> `logits`.

    Args:
        model: In eval mode, float32, on the CPU. Height and width are dynamic, too, where it says of what they are
            multiples (`size_multiple`).
        path: To write. More than 2 GB of weights go to a second file, `path` with `.data` appended.
        metadata: Text by name.
        pixels: float32 `[n, 3, H, W]`, an example.
    """
    example = (pixels[:1].repeat(2, 1, 1, 1),)  # two: the exporter takes a batch of one for a constant
    step = getattr(model, "size_multiple", None)
    sides = (
        {} if step is None else {n: step * torch.export.Dim(f"{of}_{step}") for n, of in ((2, "height"), (3, "width"))}
    )
    if step is not None:  # sides of their own, and none that could be taken for a constant
        example = (functional.interpolate(example[0], size=(3 * step, 4 * step)),)
    batch = ({0: torch.export.Dim("batch"), **sides},)
    names: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["logits"]}
    program: Any = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=batch, verbose=False, **names)
    program.model.metadata_props.update(metadata)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    program.save(path, external_data=size > _LARGEST)


def save_traced(
    model: nn.Module, path: Path, metadata: Mapping[str, str], pixels: Tensor, outputs: Mapping[str, Mapping[int, str]]
) -> None:
    """Write a file for one image of any height and width, by the exporter that follows what PyTorch does.

    It is the older one, and takes what decides by its data how many answers there are: where boxes are chosen, the
    other one finds sizes that it cannot name.

    Args:
        model: In eval mode, float32, on the CPU; gives a tuple of tensors.
        path: To write.
        metadata: Text by name.
        pixels: float32 `[1, 3, H, W]`, an example.
        outputs: The names of what it gives, in order, and of their dimensions that vary.
    """
    import onnx

    varying = {"pixels": {2: "height", 3: "width"}, **{name: dict(of) for name, of in outputs.items()}}
    names: dict[str, Any] = {"input_names": ["pixels"], "output_names": list(outputs), "dynamic_axes": varying}
    with torch.no_grad():
        model(pixels)  # what a network works out once, of its first image, is then a constant
        torch.onnx.export(model, (pixels,), path, dynamo=False, opset_version=_OPSET, **names)
    written = onnx.load(path)
    onnx.helper.set_model_props(written, dict(metadata))
    onnx.save(written, path)


def load(path: Path, precision: Precision = "32", threads: int | None = None, batch_size: int | None = None) -> Network:
    """Open a file.

    Args:
        path: `*.onnx`.
        precision: Of the arithmetic.
        threads: Cores to compute with; onnxruntime's choice when not given.
        batch_size: Makes no difference here.

    Raises:
        ConfigError: The precision is not float32, in which onnxruntime computes a file of float32 weights on CPUs.
    """
    import onnxruntime

    if precision != "32":
        raise ConfigError(
            f"--precision {precision}: onnxruntime computes {path.name} in float32; use --precision 32, or the file "
            "that `export --format openvino` writes"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(pixels: Array) -> Array:
        logits: Array = session.run(None, {name: pixels})[0]
        return logits

    def named(pixels: Array) -> dict[str, Array]:
        outputs = [output.name for output in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, {name: pixels}), strict=True))

    return Network(session.get_modelmeta().custom_metadata_map, run, named)
