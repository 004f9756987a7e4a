"""The model in torchvision's own classes over stock timm; see `cards.certificate.clients` for what goes in and out.

`logits` are the highest score of each class in each image, `boxes` where these are, in pixels of what the detector
looks at; 0 where a class was not found.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7
from torchvision.transforms.functional import pil_to_tensor

KINDS = {"fcos": detection.FCOS, "retinanet": detection.RetinaNet}


class Pyramid(nn.Module):
    """timm's maps and torchvision's pyramid over them."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        options = {"features_only": True, "out_indices": config["out_indices"], **config["model_args"]}
        self.body = timm.create_model(config["architecture"], pretrained=False, **options)
        coarser = LastLevelP6P7(256, 256) if config["detector"] in KINDS else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 256, coarser)
        self.out_channels = 256

    def forward(self, pixels: Tensor) -> Any:
        """Maps, the finest first."""
        return self.fpn({str(level): one for level, one in enumerate(self.body(pixels))})


def build(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The detector with its weights, and what config.json says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name, sizes = config["detector"], config["anchor_sizes"]
    one_stage = name in KINDS
    kind: Any = KINDS.get(name) or (detection.MaskRCNN if "mask" in name else detection.FasterRCNN)
    prefix, generator = ("", "anchor_generator") if one_stage else ("box_", "rpn_anchor_generator")
    limits = {prefix + key: config[key] for key in ("score_thresh", "nms_thresh", "detections_per_img")}
    shape = {key: config[key] for key in ("min_size", "max_size", "image_mean", "image_std")}
    anchors = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(config["aspect_ratios"]),) * len(sizes))
    classes = config["num_classes"] + (not one_stage)
    model = kind(Pyramid(config), classes, **{generator: anchors}, **shape, **limits)
    if "cascade" in name:  # heads that torchvision does not have lie beside the weights
        spec: Any = importlib.util.spec_from_file_location("cascade", folder / "cascade.py")
        heads = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(heads)
        model.roi_heads = heads.CascadeHeads(model.roi_heads, 256, classes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), config


def prepare(image: Image.Image, config: dict[str, Any]) -> Tensor:
    """RGB image -> uint8 `[3, h, w]`, made as large as the detector looks at it."""
    ratio = min(config["min_size"] / min(image.size), config["max_size"] / max(image.size))
    size = tuple(max(1, round(side * ratio)) for side in image.size)
    how = Image.Resampling[config["interpolation"].upper()]
    pixels: Tensor = pil_to_tensor(image if size == image.size else image.resize(size, how))
    return pixels


def best(model: Any, pixels: Tensor, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The highest score of each class, and its box."""
    count, first = config["num_classes"], int(config["detector"] not in KINDS)
    scores, boxes = np.zeros(count, np.float32), np.zeros((count, 4), np.float32)
    found = {name: value.numpy() for name, value in model([pixels / 255])[0].items()}
    for label in range(count):
        mine = np.flatnonzero(found["labels"] == label + first)
        if len(mine):
            surest = mine[found["scores"][mine].argmax()]
            scores[label], boxes[label] = found["scores"][surest], found["boxes"][surest]
    return scores, boxes.ravel()


def main(model: str, verify: str, output: str) -> None:
    """Find objects in the same pixels, and in the images as they are prepared here."""
    network, config = build(Path(model))
    known = load_file(Path(verify, "inputs.safetensors"))
    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
    with torch.inference_mode():
        same = [best(network, known[f"pixels_{n:03}"], config) for n in range(len(pictures))]
        own = [best(network, prepare(picture, config), config)[0] for picture in pictures]
    scores, boxes = (np.stack(of) for of in zip(*same, strict=True))
    np.savez(output, logits=scores, boxes=boxes, own=np.stack(own))
    imported = sorted({"cards", "finetune", "resnest_timm"} & set(sys.modules))
    print(json.dumps({"version": torchvision.__version__, "classes": config["label_names"], "known": imported}))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
