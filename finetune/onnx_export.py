"""`python -m finetune export RUN --format onnx`: one file that onnxruntime runs, checked on real images."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import cards
from finetune import certify, evaluate_flow, labels, model_names, models, transforms
from finetune.console import log
from finetune.errors import ConfigError, DatasetError, ExportError
from finetune.predictor import fitted_temperature
from finetune.result import RunResult
from finetune.runfolder import RunFolder
from finetune.verbs import ExportOptions

NAME = "model.onnx"
TOLERANCE = 1e-4
"""Of the largest absolute logit."""

_EXTRA = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 1_900_000_000
"""Bytes of weights that go into one file; a protobuf message holds less than 2 GiB."""


def export(options: ExportOptions) -> Path:
    """Export what the flags name, compare it with the live model in onnxruntime, and renew the run's certificate.

    Returns:
        The file. It has a dynamic batch: float32 `pixels` `[batch, 3, H, W]`, normalised -> float32 `logits`
        `[batch, C]`. Its metadata say how to prepare an image, the classes, and the temperature.

    Raises:
        ConfigError: The extra `onnx` is not installed, or the model is no folder.
        ModelError: There is no model.
        ExportError: The exporter or onnxruntime cannot do it, or onnxruntime's logits differ; then nothing is written.
    """
    options.check()
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed; pip install 'resnest-timm[onnx]'")
    name = model_names.locate(options.model)
    if not name.startswith("local-dir:"):
        raise ConfigError(
            f"expected a run or a model's folder, got {options.model!r}: train it, or download its folder"
        )
    folder = Path(name.removeprefix("local-dir:"))
    model = models.build(name, None, pretrained=True).eval()
    pixels, what = _pixels(folder, model)
    renew = cards.is_current(folder.parent)
    path = (options.output or folder / NAME).expanduser().absolute()
    largest = write(model, path, metadata(model, folder), pixels)
    log.info(f"onnxruntime gives the model's logits on {what}: largest difference {largest:.1e} of the largest logit")
    log.info(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)")
    if path == folder / NAME and (folder.parent / "verify").is_dir():
        certify.certify(folder.parent)
    if renew:  # it tells of the file, and of the certificate
        cards.build(folder.parent)
    return path


def metadata(model: nn.Module, folder: Path) -> dict[str, str]:
    """What a user of the file alone must know, as ONNX keeps it: text by name, lists and numbers as JSON."""
    data_config = models.data_config(model)
    with (folder / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    how = (
        "RGB image: resize so that its shorter side is floor(input_size / crop_pct) (crop_mode center; squash: both "
        "sides), antialiased by interpolation, cut out the centre of input_size, divide by 255, subtract mean, divide "
        "by std, channels first. Probabilities: softmax(logits / temperature)."
    )
    return {
        "task": "image-classification",
        "description": how,
        "preprocessing": json.dumps({name: data_config[name] for name in names}),
        "classes": json.dumps(labels.names(model)),
        "temperature": json.dumps(fitted_temperature(f"local-dir:{folder}") or 1.0),
        "weights_sha256": digest,
    }


def write(model: nn.Module, path: Path, metadata: Mapping[str, str], pixels: Tensor) -> float:
    """Export a model and check it; the file appears only when it gives the model's logits.

    Args:
        model: In eval mode, float32, on the CPU.
        path: To write. More than 2 GB of weights go to a second file, `path` with `.data` appended.
        metadata: See `metadata`.
        pixels: float32 `[n, 3, H, W]`, to compare on.

    Returns:
        The largest difference of a logit, over the largest logit.

    Raises:
        ExportError: It cannot be exported, or onnxruntime's logits differ by more than `TOLERANCE` of the largest.
    """
    scratch = path.with_name(f".{path.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        program = _program(model, pixels)
        program.model.metadata_props.update(metadata)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        program.save(scratch / path.name, external_data=size > _LARGEST)
        largest = _check(scratch / path.name, certify.eager_logits(model, pixels).numpy(), pixels.numpy())
        for part in sorted(scratch.iterdir(), reverse=True):  # the weights' file first, where there is one
            os.replace(part, path.with_name(part.name))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return largest


def _program(model: nn.Module, pixels: Tensor) -> Any:
    example = (pixels[:1].repeat(2, 1, 1, 1),)  # two: the exporter takes a batch of one for a constant
    batch = ({0: torch.export.Dim("batch")},)
    names: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["logits"]}
    try:
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore")  # the exporter's own, of its dependencies
            return torch.onnx.export(model, example, dynamo=True, dynamic_shapes=batch, verbose=False, **names)
    except Exception as error:  # the exporter's classes vary by version and by cause
        raise ExportError(
            f"torch cannot export this model to ONNX: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        ) from error


def _check(path: Path, live: np.ndarray, pixels: np.ndarray) -> float:
    """Run the file on one image, and on all in batches."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        batches = [pixels[:1], *(pixels[i : i + 8] for i in range(0, len(pixels), 8))]
        first, *found = [session.run(None, {"pixels": batch})[0] for batch in batches]
    except Exception as error:  # onnxruntime's classes have no public base
        raise ExportError(f"onnxruntime cannot run the exported model: {str(error).splitlines()[0]}") from error
    scale = float(np.abs(live).max()) or 1.0
    difference = max(float(np.abs(np.concatenate(found) - live).max()), float(np.abs(first - live[:1]).max())) / scale
    if not difference <= TOLERANCE:
        raise ExportError(
            f"onnxruntime's logits differ by {difference:.1e} of the largest logit, expected at most {TOLERANCE:g}: "
            "nothing was written"
        )
    return difference


def _pixels(folder: Path, model: nn.Module) -> tuple[Tensor, str]:
    """What to compare on, and what to call it: the certificate's test images, those of the dataset, or noise."""
    run = RunFolder(folder.parent)
    data_config = models.data_config(model)
    if not (run.verify / "inputs.safetensors").is_file() and run.complete:
        try:  # a run of an earlier version
            data = evaluate_flow.reopen(run, RunResult.load(run.result), "test")
            certify.write_inputs(run.verify, model, data, transforms.normalised(data_config))
        except DatasetError as error:
            log.info(f"the test images are out of reach: {error}")
    if (run.verify / "inputs.safetensors").is_file():
        pixels = load_file(run.verify / "inputs.safetensors")["pixels"]
        return pixels, f"{len(pixels)} test images"
    noise = torch.randn(8, *data_config["input_size"], generator=torch.Generator().manual_seed(0))
    return noise, "8 images of noise, for no real ones are at hand"
