"""What a user may call a model, and which mistakes in it show before anything is built; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.errors import ModelError, suggest
from finetune.networks import timm_names

HUB = ("hf-hub:", "hf_hub:")
"""How the names of models on the Hugging Face Hub begin."""

EXPORTED = (".onnx", ".xml")
"""Ends of the names of files that `export` writes, which `predict` takes for a model (`finetune.export`)."""


def locate(model: str | Path) -> str:
    """The name by which `build` finds what a user pointed at.

    Args:
        model: A run's or a model's folder, or a name as `build` takes it.

    Returns:
        `local-dir:PATH` of a folder; any other name as it is.

    Raises:
        ModelError: It is a path, and there is no model.
    """
    name, folder = str(model), Path(model).expanduser().absolute()
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file():
            return f"local-dir:{place}"
    if (folder / "config.yaml").is_file():
        raise ModelError(f"{folder} holds no complete run (no model/): go on with it by --resume {folder}")
    if name.startswith((*HUB, "local-dir:")) or name.split(".")[0] in timm_names.names().models:
        return name
    if folder.is_dir():
        raise ModelError(f"{folder} holds no model: expected a run, or a folder with config.json and model.safetensors")
    if isinstance(model, Path) or os.sep in name or name.startswith((".", "~")):
        raise ModelError(f"no such folder: {folder}; expected a run, or a folder with a model")
    return name


def check_name(name: str) -> None:
    """Raise unless timm could know the model.

    Raises:
        ModelError: Names the nearest known ones.
    """
    if name.startswith(HUB):
        return
    if name.startswith("local-dir:"):
        if not (Path(name.removeprefix("local-dir:")) / "config.json").is_file():
            raise ModelError(f"{name}: expected a folder with config.json and model.safetensors, as a run's model/ is")
        return
    if (Path(name).expanduser() / "config.json").is_file():
        raise ModelError(f"{name} is a folder: give local-dir:{name}")
    known = timm_names.names()
    architecture = name.split(".")[0]
    if architecture not in known.models:
        raise ModelError(
            f"unknown model {name!r}{suggest(architecture, known.models) or '.'} Expected a name of "
            "timm.list_models(), hf-hub:OWNER/NAME or local-dir:PATH"
        )
    tags = known.weights_of(architecture)
    if "." in name and name not in tags:
        raise ModelError(f"unknown weights {name!r}{suggest(name, tags) or '.'} Known: {', '.join(tags) or 'none'}")
