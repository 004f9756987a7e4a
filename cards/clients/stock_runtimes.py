"""model.onnx in onnxruntime, images prepared by its metadata; see `cards.clients` for what goes in and out."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

Array = np.ndarray[Any, Any]


def prepare(image: Image.Image, how: dict[str, Any]) -> Array:
    """RGB image -> float32 `[3, H, W]`, normalised: the resize and centre crop that the metadata describe.

    Args:
        image: Of any size.
        how: The metadata's `preprocessing`; `crop_mode` is center or squash.
    """
    _, height, width = how["input_size"]
    inner = [math.floor(side / how["crop_pct"]) for side in (height, width)]
    scaled = (inner[1], inner[0])  # squash: both sides, whatever the shape
    if how["crop_mode"] == "center":
        short = min(image.size)
        side = inner[0]
        scaled = (side * image.width // short, side * image.height // short)
    image = image.resize(scaled, Image.Resampling[how["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    normalised = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return normalised.transpose(2, 0, 1).astype(np.float32)


def main(model: str, verify: str, output: str) -> None:
    """Compute the logits of the same pixels, and of the images as the metadata say."""
    session = onnxruntime.InferenceSession(Path(model, "model.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    name = session.get_inputs()[0].name

    def logits(pixels: Array) -> Array:
        parts = [session.run(None, {name: pixels[i : i + 8]})[0] for i in range(0, len(pixels), 8)]
        return np.concatenate(parts)

    how = json.loads(metadata["preprocessing"])
    same = own = logits(load_file(Path(verify, "inputs.safetensors"))["pixels"])
    if how["crop_mode"] in ("center", "squash") and how["input_size"][1] == how["input_size"][2]:
        pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
        own = logits(np.stack([prepare(picture, how) for picture in pictures]))
    np.savez(output, logits=same, own=own)
    known = sorted({"cards", "finetune", "resnest_timm", "timm", "torch", "transformers"} & set(sys.modules))
    said = {"classes": json.loads(metadata["classes"]), "weights_sha256": metadata["weights_sha256"]}
    print(json.dumps({"version": onnxruntime.__version__, "known": known} | said))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
