"""Finds objects in images: a model of the Hub in torchvision's own classes over stock timm."""

import importlib.util
import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7
from torchvision.transforms.functional import pil_to_tensor

MODEL = "OWNER/NAME"
KINDS = {"fcos": detection.FCOS, "retinanet": detection.RetinaNet}

config = json.loads(Path(hf_hub_download(MODEL, "config.json")).read_text(encoding="utf-8"))
ours = json.loads(Path(hf_hub_download(MODEL, "finetune.json")).read_text(encoding="utf-8"))
one_stage = config["detector"] in KINDS


class Pyramid(nn.Module):
    """timm's maps and torchvision's pyramid over them."""

    def __init__(self) -> None:
        super().__init__()
        options = {"features_only": True, "out_indices": config["out_indices"], **config["model_args"]}
        self.body = timm.create_model(config["architecture"], pretrained=False, **options)
        coarser = LastLevelP6P7(256, 256) if one_stage else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 256, coarser)
        self.out_channels = 256

    def forward(self, pixels: Tensor) -> Any:
        """Maps, the finest first."""
        return self.fpn({str(level): one for level, one in enumerate(self.body(pixels))})


def load() -> Any:
    """The detector with its weights."""
    name, sizes = config["detector"], config["anchor_sizes"]
    kind: Any = KINDS.get(name) or (detection.MaskRCNN if "mask" in name else detection.FasterRCNN)
    prefix, generator = ("", "anchor_generator") if one_stage else ("box_", "rpn_anchor_generator")
    limits = {prefix + key: config[key] for key in ("score_thresh", "nms_thresh", "detections_per_img")}
    shape = {key: config[key] for key in ("min_size", "max_size", "image_mean", "image_std")}
    anchors = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(config["aspect_ratios"]),) * len(sizes))
    classes = config["num_classes"] + (not one_stage)
    made = kind(Pyramid(), classes, **{generator: anchors}, **shape, **limits)
    if "cascade" in name:  # heads that torchvision does not have lie beside the weights
        spec: Any = importlib.util.spec_from_file_location("cascade", hf_hub_download(MODEL, "cascade.py"))
        heads = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(heads)
        made.roi_heads = heads.CascadeHeads(made.roi_heads, 256, classes)
    made.load_state_dict(load_file(hf_hub_download(MODEL, "model.safetensors")))
    return made.eval()


model = load()
temperature: float = ours.get("temperature") or 1.0


def calibrated(score: Tensor) -> Tensor:
    """How often a found object of such a score is right."""
    return torch.sigmoid(torch.logit(score.double(), 1e-6) / temperature)


def find(image: Image.Image | None, least: float) -> tuple[Image.Image, list[tuple[Any, str]]] | None:
    """The image, and its objects with their names."""
    if image is None:
        return None
    image = image.convert("RGB")
    ratio = min(config["min_size"] / min(image.size), config["max_size"] / max(image.size))
    size = tuple(max(1, round(side * ratio)) for side in image.size)
    small = image.resize(size, Image.Resampling[config["interpolation"].upper()])
    with torch.inference_mode():
        found = model([pil_to_tensor(small) / 255])[0]
    scale = torch.tensor([image.width / small.width, image.height / small.height] * 2)
    shown = []
    for i in torch.where(calibrated(found["scores"]) >= least)[0].tolist():
        name = config["label_names"][int(found["labels"][i]) - (not one_stage)]
        place: Any = tuple((found["boxes"][i] * scale).round().int().tolist())
        if "masks" in found:
            mask = Image.fromarray(found["masks"][i, 0].numpy()).resize(image.size, Image.Resampling.BILINEAR)
            place = np.asarray(np.asarray(mask) >= 0.5, dtype=np.float32)
        shown.append((place, name))
    return image, shown


with gr.Blocks(title=MODEL, analytics_enabled=False) as demo:
    gr.HTML(f'<h1><a href="https://huggingface.co/{escape(MODEL)}">{escape(MODEL)}</a></h1>')
    with gr.Row():
        picture = gr.Image(type="pil", label="Image", height=380)
        answer = gr.AnnotatedImage(label="Found")
    start = float(calibrated(torch.tensor(ours["threshold"])))
    slider = gr.Slider(0.01, 1, round(start, 3), label="Score from which on it is shown")
    picture.change(find, [picture, slider], answer)
    slider.release(find, [picture, slider], answer)

if __name__ == "__main__":
    demo.launch()
