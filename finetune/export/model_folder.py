"""A trained model -> a folder that stock timm and transformers load, with equal logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import CheckpointError, ExportError
from finetune.runs.runfolder import save_tensors, write_text
from resnest_timm.resnest import VARIANTS
from resnest_timm.stock import PROVENANCE, stock_config, stock_form


def save(
    model: nn.Module,
    folder: Path,
    classes: Sequence[str],
    data_config: Mapping[str, Any],
    temperature: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json and model.safetensors; the folder appears whole or not at all.

    Args:
        model: A timm model.
        folder: To make; replaced if it exists.
        classes: Names, in the order of the outputs.
        data_config: timm's, as the model was evaluated with.
        temperature: Logits divided by it give calibrated probabilities; not written when not given.
        extra: Further entries of config.json that stock libraries read or leave alone; those of `calibration` are
            added to the temperature.

    Raises:
        ExportError: Stock timm cannot build the same network.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = _config(model, temporary, classes, data_config)
    if temperature is not None:
        config["calibration"] = {"temperature": temperature}
    for key, value in (extra or {}).items():
        config[key] = config.get(key, {}) | value if isinstance(value, Mapping) else value
    write_text(temporary / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(tensors, temporary / "model.safetensors", {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def stock_architecture(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and arguments by which stock timm builds the same network.

    Raises:
        ExportError: It cannot.
    """
    described: Any = model
    architecture: str = described.pretrained_cfg["architecture"]
    arguments = dict(getattr(model, "_model_args", {}))
    if architecture not in VARIANTS:
        return architecture, arguments
    try:
        return stock_form(architecture, arguments)
    except ValueError as error:
        raise ExportError(str(error)) from error


def check(model: nn.Module) -> None:
    """Raise before a training whose result could not be exported.

    Raises:
        ExportError: Stock timm cannot build the same network.
    """
    stock_architecture(model)


def _config(model: nn.Module, folder: Path, classes: Sequence[str], data_config: Mapping[str, Any]) -> dict[str, Any]:
    """Timm's config.json, with an architecture that stock timm has."""
    architecture, arguments = stock_architecture(model)
    names = {"label_names": list(classes)}
    config = stock_config(model, architecture, arguments, folder / "config.json", names, data_config)
    for key in PROVENANCE:  # the card says whose weights these are
        config["pretrained_cfg"].pop(key, None)
    return config


def best_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a Lightning checkpoint of one of our tasks.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # torch and pickle raise many kinds for bytes that are not what they should be
        raise CheckpointError(
            f"{checkpoint} is missing or damaged ({type(error).__name__}); it holds the weights of the best epoch: put "
            "back a copy of it, or make the run again by its config.yaml with another --output"
        ) from error
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
