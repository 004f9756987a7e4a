"""A trained detector -> model/: torchvision's form for strangers, and finetune.json for all that is ours."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.data import images
from finetune.errors import ModelError
from finetune.export.certify import IMAGES, spread
from finetune.runs import model_files
from finetune.runs.runfolder import save_tensors, write_text
from finetune.tasks.detection import prepare
from finetune.tasks.detection.networks import build, cascade, finding
from finetune.tasks.detection.networks.layout import CASCADES, Layout

OURS = "finetune.json"
CASCADE = "cascade.py"
"""Beside the weights of a cascade: torchvision has no such heads."""


def save(network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
    """Write model/; the folder appears whole or not at all.

    Args:
        network: Of `finetune.tasks.detection.networks.build`.
        folder: To make; replaced if it exists.
        data: With the names of the classes.
        data_config: timm's, as the model was evaluated with.
        result: Of the run, with its `evaluation`.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    layout = dataclasses.replace(layout_of(network), interpolation=data_config["interpolation"])
    classes = list(data.schema.classes)
    config = {**layout.to_json(), "label_names": classes}
    evaluation = result.evaluation
    ours = {
        "task": data.schema.task,
        "classes": classes,
        "threshold": evaluation["threshold"]["score"],
        "temperature": evaluation.get("calibration", {}).get("temperature"),
        **{name: config[name] for name in ("detector", "min_size", "max_size", "anchor_sizes", "aspect_ratios")},
    }
    for name, content in (("config.json", config), (OURS, ours)):
        write_text(temporary / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if layout.detector in CASCADES:
        write_text(temporary / CASCADE, inspect.getsource(cascade))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_tensors(tensors, temporary / "model.safetensors", {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load(folder: Path) -> nn.Module:
    """The detector in model/, with its weights.

    Raises:
        ModelError: It is damaged, or of an architecture that timm does not know.
        RunFolderError: A file is another than the one that was verified or written.
    """
    model_files.check(folder)
    try:
        layout = Layout.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        model = build.assemble(layout)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, RuntimeError, OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: config.json and model.safetensors are no detector that this version has saved "
            f"({' '.join(str(error).split())[:200]}): put back a copy of them"
        ) from error
    described: Any = model
    about = ours(folder)
    described.label_names, described.threshold = about["classes"], float(about["threshold"])
    return model.eval()


def layout_of(network: nn.Module) -> Layout:
    """What a detector is built from."""
    described: Any = network
    layout: Layout = described.layout
    return layout


def ours(folder: Path) -> dict[str, Any]:
    """What finetune.json says: classes, the threshold, the temperature.

    Raises:
        ModelError: It is missing or damaged.
    """
    path = folder / OURS
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not (content["classes"] and 0 <= content["threshold"] <= 1):
            raise ValueError("values that cannot be")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is missing or damaged ({error}): put back a copy of it") from error
    return content


def witness(network: nn.Module, folder: Path, data: Any) -> None:
    """Write RUN/verify: test images, as they are and as the detector looks at them, and what it finds there.

    `images/000.png` ... are upright and in their own size; `inputs.safetensors` has uint8 `pixels_000` `[3, h, w]`,
    float32 `logits` `[n, C]`, the highest score of each class in each image, and `boxes` `[n, C * 4]`, where that is,
    in pixels of these; 0 where a class was not found.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    layout, network = layout_of(network), network.cpu().float().eval()
    rows = spread(np.argmax(data.splits.parts["test"].targets, axis=1), IMAGES)
    tensors: dict[str, Tensor] = {}
    highest, places = [], []
    for number, value in enumerate(data.values("test", rows.tolist())):
        picture = images.decode(value)
        picture.save(temporary / "images" / f"{number:03}.png")
        pixels = tensors[f"pixels_{number:03}"] = prepare.resized(picture, layout)
        size = (pixels.shape[-2], pixels.shape[-1])
        with torch.inference_mode():
            found = finding.find(network, prepare.normalised(pixels, layout), size)
        score, box = best_of_class(found, layout.num_classes)
        highest.append(score)
        places.append(box)
    tensors |= {"logits": torch.stack(highest), "boxes": torch.stack(places)}
    save_tensors({name: of.contiguous() for name, of in tensors.items()}, temporary / "inputs.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def best_of_class(found: finding.Found, classes: int) -> tuple[Tensor, Tensor]:
    """float32 `[C]`, the highest score of each class, and `[C * 4]`, its box; 0 where there is none."""
    scores, boxes = torch.zeros(classes), torch.zeros(classes, 4)
    for label in range(classes):
        mine = torch.where(found["labels"] == label)[0]
        if len(mine):
            first = mine[found["scores"][mine].argmax()]
            scores[label], boxes[label] = found["scores"][first], found["boxes"][first]
    return scores, boxes.flatten()
