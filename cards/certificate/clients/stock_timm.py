"""The model in timm as it comes; see `cards.certificate.clients` for what goes in and out."""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config


def main(model: str, verify: str, output: str) -> None:
    """Compute the logits of the same pixels, and of the images as timm prepares them."""
    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    pixels = load_file(Path(verify, "inputs.safetensors"))["pixels"]
    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
    own = torch.stack([transform(picture) for picture in pictures])
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in torch.split(pixels, 8)])
        own_logits = (
            logits if torch.equal(own, pixels) else torch.cat([network(batch) for batch in torch.split(own, 8)])
        )
    np.savez(output, logits=logits.numpy(), own=own_logits.numpy())
    known = sorted({"cards", "finetune", "resnest_timm"} & set(sys.modules))
    classes = list(network.pretrained_cfg["label_names"])
    print(json.dumps({"version": timm.__version__, "classes": classes, "known": known}))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
