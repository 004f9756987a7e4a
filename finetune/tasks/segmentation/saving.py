"""model/ in the form that smp's `from_pretrained` loads, and finetune.json with what is ours.

config.json holds what smp's class takes and nothing else: smp 0.6 hands every further key on to timm, which raises.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import nn

from finetune.data import images
from finetune.errors import ModelError
from finetune.export import certify
from finetune.runs import model_files
from finetune.runs.runfolder import save_tensors, write_text
from finetune.tasks.segmentation.network import DECODERS, MULTIPLE, SegmentationNetwork, library
from finetune.tasks.segmentation.prepared import Prepare, stacked

VERSION = 1
_CFG = ("architecture", "tag", "hf_hub_id", "license")
_NUMBERS = 2**25
"""Of the certificate's logits: 128 MiB in float32."""


def save(
    network: SegmentationNetwork,
    folder: Path,
    data_config: Mapping[str, Any],
    temperature: float | None,
    task: str,
) -> None:
    """Write config.json, model.safetensors and finetune.json; the folder appears whole or not at all.

    Args:
        network: With its classes.
        folder: To make; replaced if it exists.
        data_config: timm's, as the network was evaluated with.
        temperature: Logits divided by it give calibrated probabilities; None where none was fitted.
        task: The task's name.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    ours = {
        "version": VERSION,
        "task": task,
        "classes": list(network.classes),
        "image_size": int(data_config["input_size"][-1]),
        "multiple": MULTIPLE,
        "interpolation": data_config["interpolation"],
        "mean": list(data_config["mean"]),
        "std": list(data_config["std"]),
        "temperature": temperature,
        "tile": network.tile,
        "needs": network.needs,
        "backbone": {key: network.pretrained_cfg.get(key) for key in _CFG},
    }
    _write(temporary / "config.json", network.arguments)
    _write(temporary / model_files.OURS, ours)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.network.state_dict().items()}
    save_tensors(tensors, temporary / "model.safetensors", {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load(folder: Path) -> SegmentationNetwork:
    """The network of a folder that `save` wrote.

    Raises:
        ConfigError: smp is not installed.
        ModelError: A file is missing or damaged.
        RunFolderError: A file is another than the one that was verified or written.
    """
    model_files.check(folder)
    smp, ours = library(), model_files.ours(folder)
    arguments = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = arguments.get("_model_class")
    if name not in DECODERS.values() or arguments.get("classes") != len(ours["classes"]):
        raise ModelError(
            f"{folder / 'config.json'} is damaged: expected one of {', '.join(DECODERS.values())} with "
            f"{len(ours['classes'])} classes, got {name} with {arguments.get('classes')}"
        )
    given = {key: value for key, value in arguments.items() if not key.startswith("_")}
    try:  # as smp's own from_pretrained, which prints on standard output
        network = getattr(smp, name)(**given)
        nn.Module.load_state_dict(network, load_file(folder / "model.safetensors"), strict=True)
    except (OSError, RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"cannot build the model in {folder}: {' '.join(str(error).split())[:300]}") from error
    size = int(ours["image_size"])
    cfg = ours["backbone"] | {key: ours[key] for key in ("mean", "std", "interpolation")}
    cfg |= {"input_size": (3, size, size), "crop_pct": 1.0, "crop_mode": "center"}
    made = SegmentationNetwork(network.train(), arguments, cfg, ours.get("tile"))
    made.classes, made.temperature = tuple(ours["classes"]), ours.get("temperature")
    return made


def witness(network: SegmentationNetwork, folder: Path, data: Any, data_config: Mapping[str, Any]) -> None:
    """Write the middle squares of some test images as PNG, and the live network's logits of them.

    Args:
        network: As it was evaluated; is moved to the CPU.
        folder: RUN/verify, replaced if it exists: see `finetune.export.certify.write_inputs`; logits `[n, K, H, W]`.
        data: With the test split.
        data_config: timm's.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    prepare, part = Prepare(data_config), data.splits.parts["test"]
    side = int(data_config["input_size"][-1])
    room = max(1, _NUMBERS // (network.outputs * side * side))
    places = certify.spread(data.schema.strata(part.targets), min(certify.IMAGES, room)).tolist()
    found = []
    for number, value in enumerate(data.values("test", places)):
        picture = _square(images.decode(value))
        picture.save(temporary / "images" / f"{number:03}.png")
        found.append(prepare(picture))
    pixels = stacked(found)
    logits = certify.eager_logits(network, pixels)
    save_tensors({"pixels": pixels, "logits": logits.contiguous()}, temporary / "inputs.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _square(picture: Image.Image) -> Image.Image:
    """The middle, so that all have one size."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def check_network(network: nn.Module) -> SegmentationNetwork:
    """What `finetune.task` calls a network, as this task has it."""
    assert isinstance(network, SegmentationNetwork)
    return network


DESCRIPTION = (
    "RGB image: resize the whole of it so that its shorter side is image_size and both are rounded up to multiples of "
    "multiple: ceil(side * image_size / shorter / multiple) * multiple, antialiased by interpolation; divide by 255, "
    "subtract mean, divide by std, channels first. Logits [batch, classes, height, width]: scale them back to the "
    "image's size, bilinear, corners not aligned; the largest is the class, softmax(logits / temperature) are "
    "probabilities."
)


def preprocessing(network: SegmentationNetwork) -> dict[str, Any]:
    """What `DESCRIPTION` speaks of."""
    cfg = network.pretrained_cfg
    size = cfg["input_size"][-1]
    return {
        "image_size": size,
        "multiple": MULTIPLE,
        "interpolation": cfg["interpolation"],
        "mean": list(cfg["mean"]),
        "std": list(cfg["std"]),
    }
