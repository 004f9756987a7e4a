"""The model in segmentation_models_pytorch as it comes; see `cards.certificate.clients` for what goes in and out.

Where finetune.json says that a package must be imported first (`needs`), it is: without it the network has another name
for its backbone than timm knows.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import load_file


def prepare(image: Image.Image, how: dict[str, Any]) -> torch.Tensor:
    """RGB image -> float32 `[3, h, w]`: the whole of it, as finetune.json says."""
    step = how["multiple"]
    least = min(image.size) * step
    size = tuple(-(-side * how["image_size"] // least) * step for side in image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    pixels = np.asarray(image, dtype=np.float32) / 255
    normalised = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return torch.from_numpy(normalised.transpose(2, 0, 1).copy())


def main(model: str, verify: str, output: str) -> None:
    """Compute the logits of the same pixels, and of the images as finetune.json says."""
    how = json.loads(Path(model, "finetune.json").read_text(encoding="utf-8"))
    if how.get("needs"):
        importlib.import_module(how["needs"])
    with contextlib.redirect_stdout(sys.stderr):  # it prints where the weights are from
        network = smp.from_pretrained(model).eval()
    pixels = load_file(Path(verify, "inputs.safetensors"))["pixels"]
    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
    own = torch.stack([prepare(picture, how) for picture in pictures])
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in torch.split(pixels, 8)])
        own_logits = torch.cat([network(batch) for batch in torch.split(own, 8)])
    np.savez(output, logits=logits.numpy(), own=own_logits.numpy())
    known = sorted(({"cards", "finetune", "resnest_timm"} & set(sys.modules)) - {how.get("needs")})
    needed = f" with {how['needs']}" if how.get("needs") else ""
    print(json.dumps({"version": smp.__version__ + needed, "classes": how["classes"], "known": known}))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
