"""Shows which class each pixel of an image has: a model of the Hub, in segmentation_models_pytorch."""

import colorsys
import importlib
import json
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import hf_hub_download
from PIL import Image

MODEL = "OWNER/NAME"

how = json.loads(Path(hf_hub_download(MODEL, "finetune.json")).read_text(encoding="utf-8"))
if how.get("needs"):
    importlib.import_module(how["needs"])
model = smp.from_pretrained(MODEL).eval()
classes: list[str] = how["classes"]
colours = np.array(
    [[round(255 * part) for part in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.75, 0.95)] for i in range(len(classes))],
    dtype=np.uint8,
)


def prepare(image: Image.Image) -> torch.Tensor:
    """RGB image -> float32 `[1, 3, h, w]`: the whole of it."""
    step, short = how["multiple"], min(image.size)
    size = tuple(-(-side * how["image_size"] // (short * step)) * step for side in image.size)
    pixels = np.asarray(image.resize(size, Image.Resampling[how["interpolation"].upper()]), dtype=np.float32) / 255
    pixels = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def segment(image: Image.Image | None, opacity: float) -> tuple[np.ndarray | None, str]:
    """The image with its classes over it, and which there are."""
    if image is None:
        return None, ""
    image = image.convert("RGB")
    with torch.inference_mode():
        logits = model(prepare(image))
    logits = torch.nn.functional.interpolate(logits, size=(image.height, image.width), mode="bilinear")
    mask = logits.argmax(dim=1)[0].numpy()
    mixed = (1 - opacity) * np.asarray(image) + opacity * colours[mask]
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    rows = [
        f'<li><span style="background:rgb{tuple(colours[i].tolist())}">&emsp;</span> {escape(classes[i])} '
        f"{counts[i] / mask.size:.1%}</li>"
        for i in counts.argsort()[::-1].tolist()
        if counts[i]
    ]
    return mixed.round().astype(np.uint8), f'<ul style="list-style:none">{"".join(rows)}</ul>'


with gr.Blocks(title=MODEL, analytics_enabled=False) as demo:
    gr.HTML(f'<h1><a href="https://huggingface.co/{escape(MODEL)}">{escape(MODEL)}</a></h1>')
    with gr.Row():
        picture = gr.Image(type="pil", label="Image", height=380)
        answer = gr.Image(label="Classes", height=380, interactive=False)
    slider = gr.Slider(0, 1, 0.5, label="Opacity of the classes")
    names = gr.HTML()
    picture.change(segment, [picture, slider], [answer, names])
    slider.release(segment, [picture, slider], [answer, names])

if __name__ == "__main__":
    demo.launch()
