"""The model in transformers as it comes; see `cards.certificate.clients` for what goes in and out."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification


def main(model: str, verify: str, output: str) -> None:
    """Compute the logits of the same pixels, and of the images as the image processor prepares them."""
    network = AutoModelForImageClassification.from_pretrained(model).eval()
    processor = AutoImageProcessor.from_pretrained(model)
    pixels = load_file(Path(verify, "inputs.safetensors"))["pixels"]
    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
    own = torch.cat([processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    with torch.inference_mode():
        logits = torch.cat([network(batch).logits for batch in torch.split(pixels, 8)])
        own_logits = logits
        if not torch.equal(own, pixels):
            own_logits = torch.cat([network(batch).logits for batch in torch.split(own, 8)])
    np.savez(output, logits=logits.numpy(), own=own_logits.numpy())
    known = sorted({"cards", "finetune", "resnest_timm"} & set(sys.modules))
    classes = [network.config.id2label[index] for index in range(logits.shape[1])]
    print(json.dumps({"version": transformers.__version__, "classes": classes, "known": known}))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
