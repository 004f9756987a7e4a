"""A detector that answers: a network, or a file that `export` has written, which needs nothing besides itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.export import exported, formats
from finetune.export.formats import Format
from finetune.export.network import Array, Network
from finetune.networks import model_names
from finetune.tasks.detection import saving
from finetune.tasks.detection.exporting.graph import outputs
from finetune.tasks.detection.networks import finding
from finetune.tasks.detection.networks.layout import Layout
from finetune.training import hardware


@dataclass(frozen=True)
class Finder:
    """What answers to images, and what to know of its answers.

    Attributes:
        folder: Where the model lies.
        layout: The detector's.
        about: `classes`, `threshold`, `temperature`.
        device: Where images go.
        find: An image, float32 `[3, h, w]`, normalised, and its original height and width -> what is in it.
    """

    folder: Path
    layout: Layout
    about: Mapping[str, Any]
    device: torch.device
    find: Callable[[Tensor, tuple[int, int]], finding.Found]


def opened(model: str | Path, accelerator: str) -> Finder:
    """Of a run, a model's folder, or a file.

    Raises:
        ConfigError: A file's library is not installed, or it has no such accelerator.
        ModelError: There is no such model, or it is damaged.
    """
    form = formats.of_file(model)
    if form is not None:
        return _of_file(form, Path(model).expanduser().absolute(), accelerator)
    folder = Path(model_names.locate(model).removeprefix("local-dir:"))
    device = hardware.device(accelerator)
    network = saving.load(folder).to(device)
    about = saving.ours(folder)
    return Finder(
        folder, saving.layout_of(network), about, device, lambda image, size: finding.find(network, image, size)
    )


def _of_file(form: Format, path: Path, accelerator: str) -> Finder:
    says = "how to prepare an image, the classes and the threshold"
    _, (run, layout, about) = exported.opened(form, path, accelerator, says, _known)
    return Finder(path.parent, layout, about, torch.device("cpu"), lambda image, size: _found(run, layout, image, size))


def _known(network: Network) -> tuple[Callable[[Array], dict[str, Array]], Layout, dict[str, Any]]:
    """What runs it, the detector's layout, and `about` of a finder."""
    about = {name: json.loads(network.metadata[name]) for name in ("classes", "threshold", "temperature")}
    layout = Layout.from_json(json.loads(network.metadata["layout"]))
    if network.named is None or len(about["classes"]) != layout.num_classes or not 0 <= about["threshold"] <= 1:
        raise ValueError("values that cannot be")
    return network.named, layout, about


def _found(
    run: Callable[[Array], dict[str, Array]], layout: Layout, image: Tensor, size: tuple[int, int]
) -> finding.Found:
    found = run(image[None].contiguous().numpy())
    named = {name: torch.from_numpy(found[name]) for name in outputs(layout)}
    return finding.placed(named, (image.shape[-2], image.shape[-1]), size)
