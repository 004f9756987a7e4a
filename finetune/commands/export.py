"""`python -m finetune export RUN --format FORMAT`: a file that its library runs, checked on real images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import cards
from finetune.commands import evaluate
from finetune.console import log
from finetune.errors import ConfigError, DatasetError, ExportError
from finetune.export import certify, formats, writing
from finetune.export.formats import Format
from finetune.networks import model_names, models
from finetune.optional import Exporting
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings.verbs import ExportOptions
from finetune.task import Task
from finetune.tasks import registry

TOLERANCE = 1e-4
"""Of the largest absolute logit."""


def export(options: ExportOptions) -> Path:
    """Export what the flags name, compare it with the live model in its library, and renew the run's certificate.

    Returns:
        The file. It has a dynamic batch: float32 `pixels` `[batch, 3, H, W]`, normalised -> float32 `logits`
        `[batch, C]`; of a task that is `Exporting`, what that says. Its metadata say how to prepare an image, the
        classes, and the temperature.

    Raises:
        ConfigError: The format's extra is not installed, or the model is no folder.
        ModelError: There is no model.
        ExportError: The exporter or the library cannot do it, or the library's logits differ; then nothing is written.
    """
    options.check()
    form = formats.named(options.format)
    form.check_installed((*form.writes, form.runs))
    name = model_names.locate(options.model)
    if not name.startswith("local-dir:"):
        raise ConfigError(
            f"expected a run or a model's folder, got {options.model!r}: train it, or download its folder"
        )
    folder = Path(name.removeprefix("local-dir:"))
    task = registry.of_model(folder)
    model = registry.open_model(task, name).eval()
    verify = _test_images(folder, model, task)
    renew = cards.is_current(folder.parent)
    path = (Path(options.output) if options.output else folder / form.file).expanduser().absolute()
    told = metadata(task, model, folder)
    if isinstance(task, Exporting):
        log.info(task.write_file(form, model, path, told, verify))
    else:
        pixels, what = _pixels(verify, model, task)
        largest = write(form, model, path, told, pixels)
        log.info(
            f"{form.library} gives the model's logits on {what}: largest difference {largest:.1e} of the largest logit"
        )
    size = sum(part.stat().st_size for part in form.parts(path))
    log.info(f"{' and '.join(str(part) for part in form.parts(path))} ({size / 2**20:.1f} MiB)")
    if path == folder / form.file and (folder.parent / "verify").is_dir():
        certify.certify(folder.parent)
    if renew:  # it tells of the file, and of the certificate
        cards.build(folder.parent)
    return path


def metadata(task: Task, model: nn.Module, folder: Path) -> dict[str, str]:
    """What a user of the file alone must know, as the formats keep it: text by name, lists and numbers as JSON."""
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
        "task": task.name,
        "description": how,
        "preprocessing": json.dumps({name: data_config[name] for name in names}),
        **task.file_metadata(model, folder),
        "weights_sha256": digest,
    }


def write(form: Format, model: nn.Module, path: Path, metadata: Mapping[str, str], pixels: Tensor) -> float:
    """Export a model and check it; the files appear only when they give the model's logits, and all of them.

    Args:
        form: To write.
        model: In eval mode, float32, on the CPU.
        path: To write; weights may go to a second file beside it.
        metadata: See `metadata`.
        pixels: float32 `[n, 3, H, W]`, to compare on.

    Returns:
        The largest difference of a logit, over the largest logit.

    Raises:
        ExportError: It cannot be exported, or the logits differ by more than `TOLERANCE` of the largest.
    """
    with writing.whole(path) as part:
        with writing.exporter(form.library):
            form.save(model, part, metadata, pixels)
        return _check(form, part, certify.eager_logits(model, pixels).numpy(), pixels.numpy())


def _check(form: Format, path: Path, live: np.ndarray, pixels: np.ndarray) -> float:
    """Run the file on one image, and on all in batches."""
    with writing.runtime(form.library):
        network = form.load(path, "32", None, 8)
        batches = [pixels[:1], *(pixels[i : i + 8] for i in range(0, len(pixels), 8))]
        first, *found = [network.run(batch).copy() for batch in batches]
    scale = float(np.abs(live).max()) or 1.0
    difference = max(float(np.abs(np.concatenate(found) - live).max()), float(np.abs(first - live[:1]).max())) / scale
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{form.library}'s logits differ by {difference:.1e} of the largest logit, expected at most "
            f"{TOLERANCE:g}: nothing was written"
        )
    return difference


def _test_images(folder: Path, model: nn.Module, task: Task) -> Path:
    """RUN/verify, made where a run of an earlier version has none and its dataset is at hand."""
    run = RunFolder(folder.parent)
    if not (run.verify / "inputs.safetensors").is_file() and run.result.is_file():
        try:
            data = evaluate.reopen(run, RunResult.load(run.result), "test")
            task.witness(model, run.verify, data, models.data_config(model))
        except DatasetError as error:
            log.info(f"the test images are out of reach: {error}")
    return run.verify


def _pixels(verify: Path, model: nn.Module, task: Task) -> tuple[Tensor, str]:
    """What to compare on, and what to call it: the certificate's test images, or noise."""
    if (verify / "inputs.safetensors").is_file():
        given = load_file(verify / "inputs.safetensors")
        if "pixels" not in given:
            raise ExportError(f"{task.name} has no exported form yet: its images have sizes of their own; use model/")
        pixels = given["pixels"]
        return pixels, f"{len(pixels)} test images"
    noise = torch.randn(8, *models.data_config(model)["input_size"], generator=torch.Generator().manual_seed(0))
    return noise, "8 images of noise, for no real ones are at hand"
