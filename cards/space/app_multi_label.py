"""Names all classes that an image shows, by a model of the Hub: stock timm, calibrated probabilities, thresholds."""

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


def told_apart(names: list[str]) -> list[str]:
    """Names without repetitions: of those that are alike, or empty, each with its number."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{name} (class {i})".strip() for i, name in enumerate(names)]


model = timm.create_model(f"hf-hub:{MODEL}", pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
config = json.loads(Path(hf_hub_download(MODEL, "config.json")).read_text(encoding="utf-8"))
calibration = config.get("calibration") or {}
classes = told_apart(model.pretrained_cfg.get("label_names") or [str(i) for i in range(model.num_classes)])
thresholds: list[float] = calibration.get("thresholds") or [0.5] * len(classes)


def classify(image: Image.Image | None) -> dict[str, float]:
    """Probabilities of the classes above their thresholds; none where the image shows no class."""
    if image is None:
        return {}
    with torch.inference_mode():
        logits = model(transform(image.convert("RGB"))[None])[0].double()
    probabilities = (logits / calibration.get("temperature", 1.0)).sigmoid().tolist()
    triples = zip(classes, probabilities, thresholds, strict=True)
    found = {name: p for name, p, threshold in triples if p >= threshold}
    return found or {"none of the classes": 1.0 - max(probabilities)}


with gr.Blocks(title=MODEL, analytics_enabled=False) as demo:
    gr.HTML(f'<h1><a href="https://huggingface.co/{escape(MODEL)}">{escape(MODEL)}</a></h1>')
    with gr.Row():
        picture = gr.Image(type="pil", label="Image", height=380)
        answer = gr.Label(num_top_classes=len(classes), label="Probability")
    picture.change(classify, picture, answer)

if __name__ == "__main__":
    demo.launch()
