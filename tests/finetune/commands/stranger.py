"""A process that knows timm, transformers and scikit-learn, and nothing of this project.

Loads RUN/model with stock timm and with transformers, evaluates it on the rows that RUN/splits.json names, and prints
what it found as JSON. Written from the README's description of the run folder, not from our code.

    python stranger.py RUN DATASET_DIR|digits OUT.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from datasets import load_dataset
from PIL import Image
from sklearn import metrics
from sklearn.datasets import load_digits


def load(name, split, rows):
    if name == "digits":
        sample = load_digits()
        images = [Image.fromarray((p * (255 / 16)).round().astype("uint8")).convert("RGB") for p in sample.images]
        targets = sample.target
    else:
        data = load_dataset(name, split=split)
        images, targets = None, np.array(data["label"])
    rows = range(len(targets)) if rows == "all" else rows
    pictures = [images[r] if images else data[r]["image"].convert("RGB") for r in rows]
    return pictures, targets[list(rows)]


def main(run, dataset, out):
    torch.set_num_threads(2)
    run = Path(run)
    part = json.loads((run / "splits.json").read_text())["test"]
    pictures, targets = load(dataset, part["source"], part["rows"])
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = torch.stack([transform(picture) for picture in pictures])
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in pixels.split(16)])

    from transformers import AutoImageProcessor, AutoModelForImageClassification

    theirs = AutoModelForImageClassification.from_pretrained(run / "model").eval()
    processor = AutoImageProcessor.from_pretrained(run / "model")
    same_pixels = torch.cat([processor(p, return_tensors="pt").pixel_values for p in pictures[:8]])
    with torch.inference_mode():
        transformers_logits = theirs(same_pixels).logits

    assert not {"resnest_timm", "finetune", "cards"} & set(sys.modules)
    predictions, labels = logits.argmax(1).numpy(), list(range(logits.shape[1]))
    probabilities = logits.double().softmax(1).numpy()
    top5 = metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=labels) if len(labels) > 5 else None
    report = {
        "images": len(targets),
        "timm_names": list(model.pretrained_cfg["label_names"]),
        "transformers_names": [theirs.config.id2label[i] for i in labels],
        "metrics": {
            "accuracy": metrics.accuracy_score(targets, predictions),
            "top5_accuracy": top5,
            "macro_f1": metrics.f1_score(targets, predictions, average="macro", zero_division=0),
            "balanced_accuracy": metrics.recall_score(targets, predictions, average="macro", labels=np.unique(targets)),
            "loss": metrics.log_loss(targets, probabilities, labels=labels),
        },
    }
    np.savez(out, pixels=pixels[:8], timm=logits[:8], transformers=transformers_logits)
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
