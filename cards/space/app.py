"""Classifies images with a model of the Hub: stock timm, preprocessing of its evaluation, calibrated probabilities."""

import json
from collections import Counter
from html import escape
from pathlib import Path

import gradio as gr
import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

MODEL = "OWNER/NAME"
TOP = 5


def told_apart(names: list[str]) -> list[str]:
    """Names without repetitions: of those that are alike, or empty, each with its number."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{name} (class {i})".strip() for i, name in enumerate(names)]


model = timm.create_model(f"hf-hub:{MODEL}", pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
config = json.loads(Path(hf_hub_download(MODEL, "config.json")).read_text(encoding="utf-8"))
temperature: float = (config.get("calibration") or {}).get("temperature", 1.0)
classes = told_apart(model.pretrained_cfg.get("label_names") or [str(i) for i in range(model.num_classes)])


def classify(image: Image.Image | None) -> dict[str, float]:
    """Probabilities of the most probable classes."""
    if image is None:
        return {}
    with torch.inference_mode():
        logits = model(transform(image.convert("RGB"))[None])[0].double()
    highest, indices = (logits / temperature).softmax(dim=0).topk(min(TOP, len(classes)))
    return {classes[i]: p for i, p in zip(indices.tolist(), highest.tolist(), strict=True)}


with gr.Blocks(title=MODEL, analytics_enabled=False) as demo:
    gr.HTML(f'<h1><a href="https://huggingface.co/{escape(MODEL)}">{escape(MODEL)}</a></h1>')
    with gr.Row():
        picture = gr.Image(type="pil", label="Image", height=380)
        answer = gr.Label(num_top_classes=TOP, label="Probability")
    picture.change(classify, picture, answer)

if __name__ == "__main__":
    demo.launch()
