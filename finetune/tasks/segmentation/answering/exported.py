"""An exported file in the place of a network: all that answering needs is read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.export import exported
from finetune.export.formats import Format
from finetune.export.network import Network
from finetune.tasks.segmentation.inputs import LONGEST
from finetune.tasks.segmentation.network import MULTIPLE, SegmentationNetwork

_PREPROCESSING = {"image_size": int, "multiple": int, "longest": int, "interpolation": str, "mean": list, "std": list}


def read(form: Format, path: Path, accelerator: str) -> SegmentationNetwork:
    """Open a file that `export` wrote; its own library computes, and no PyTorch model is built.

    Args:
        form: The file's.
        path: The file.
        accelerator: As the command line takes it.

    Raises:
        ConfigError: The library is not installed, or there is no such accelerator for it.
        ModelError: There is no such file, the library cannot run it, or it does not say how to use it.
    """
    says = "how to prepare an image, and the classes"
    network, (classes, temperature, tile, how) = exported.opened(form, path, accelerator, says, _known)
    size = how["image_size"]
    cfg: dict[str, Any] = {
        "input_size": (3, size, size),
        "crop_pct": 1.0,
        "crop_mode": "center",
        "architecture": path.name,
    }
    cfg |= {"interpolation": how["interpolation"], "mean": tuple(how["mean"]), "std": tuple(how["std"])}
    arguments = {"classes": len(classes), "encoder_name": ""}
    made = SegmentationNetwork(exported.ExportedModule(network), arguments, cfg, tile)
    made.classes, made.temperature = classes, temperature
    return made


def _known(network: Network) -> tuple[tuple[str, ...], float, int | None, dict[str, Any]]:
    """Classes, temperature, side of a tile in pixels, and how an image is prepared."""
    classes = tuple(str(name) for name in json.loads(network.metadata["classes"]))
    temperature = float(json.loads(network.metadata["temperature"]))
    tile = json.loads(network.metadata.get("tile", "null"))
    how: dict[str, Any] = json.loads(network.metadata["preprocessing"])
    known = all(isinstance(how[name], kind) for name, kind in _PREPROCESSING.items())
    if not (classes and known and (how["multiple"], how["longest"]) == (MULTIPLE, LONGEST)):
        raise ValueError("values that cannot be")
    return classes, temperature, tile, how
