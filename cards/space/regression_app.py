"""Answers images with a number by a model of the Hub: stock timm, preprocessing of its evaluation, its interval."""

import json
from html import escape
from pathlib import Path

import gradio as gr
import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

MODEL = "OWNER/NAME"

model = timm.create_model(f"hf-hub:{MODEL}", pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
config = json.loads(Path(hf_hub_download(MODEL, "config.json")).read_text(encoding="utf-8"))
interval: dict[str, float] = config.get("calibration") or {}
name: str = (model.pretrained_cfg.get("label_names") or ["number"])[0]


def answer(image: Image.Image | None) -> str:
    """The number, and the interval that is meant to hold it."""
    if image is None:
        return ""
    with torch.inference_mode():
        value = model(transform(image.convert("RGB"))[None]).item()
    if not interval:
        return f"{value:.6g}"
    low, high = value - interval["half_width"], value + interval["half_width"]
    return f"{value:.6g}  ({100 * interval['level']:g}% of images: {low:.6g} to {high:.6g})"


with gr.Blocks(title=MODEL, analytics_enabled=False) as demo:
    gr.HTML(f'<h1><a href="https://huggingface.co/{escape(MODEL)}">{escape(MODEL)}</a></h1>')
    with gr.Row():
        picture = gr.Image(type="pil", label="Image", height=380)
        said = gr.Textbox(label=name, interactive=False)
    picture.change(answer, picture, said)

if __name__ == "__main__":
    demo.launch()
