"""An exported file in the library that it is for, images prepared by its metadata (`cards.certificate.clients`).

The request also has `file`: model.onnx, which onnxruntime runs, or model.xml, which OpenVINO runs in float32.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

Array = np.ndarray[Any, Any]

WANTED = ("preprocessing", "classes", "weights_sha256")
"""Of the metadata."""


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


def prepare_whole(image: Image.Image, how: dict[str, Any]) -> Array:
    """The same for masks: the whole image, its sides multiples of `multiple`."""
    step, short = how["multiple"], min(image.size)
    size = tuple(-(-side * how["image_size"] // (short * step)) * step for side in image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    pixels = np.asarray(image, dtype=np.float32) / 255
    normalised = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return normalised.transpose(2, 0, 1).astype(np.float32)


def open_onnx(path: Path) -> tuple[str, Mapping[str, str], Callable[[Array], Array]]:
    """The library's version, the metadata, and float32 `[B, 3, H, W]` -> float32 logits `[B, C]`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    metadata = session.get_modelmeta().custom_metadata_map
    return onnxruntime.__version__, metadata, lambda pixels: session.run(None, {name: pixels})[0]


def open_openvino(path: Path) -> tuple[str, Mapping[str, str], Callable[[Array], Array]]:
    """The same of OpenVINO, without the package by which it tells its makers of each import."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    metadata = {name: network.get_rt_info(["finetune", name]).astype(str) for name in WANTED}
    # Where the CPU has bfloat16, OpenVINO would take it.
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return openvino.__version__.split("-")[0], metadata, lambda pixels: compiled([pixels])[0].copy()


def main(model: str, verify: str, output: str, file: str) -> None:
    """Compute the logits of the same pixels, and of the images as the metadata say."""
    version, metadata, run = (open_openvino if file.endswith(".xml") else open_onnx)(Path(model, file))

    def logits(pixels: Array) -> Array:
        return np.concatenate([run(pixels[i : i + 8]) for i in range(0, len(pixels), 8)])

    how = json.loads(metadata["preprocessing"])
    same = own = logits(load_file(Path(verify, "inputs.safetensors"))["pixels"])
    square = how.get("crop_mode") in ("center", "squash") and how["input_size"][1] == how["input_size"][2]
    if square or "multiple" in how:
        pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
        own = logits(np.stack([(prepare if square else prepare_whole)(picture, how) for picture in pictures]))
    np.savez(output, logits=same, own=own)
    known = sorted({"cards", "finetune", "resnest_timm", "timm", "torch", "transformers"} & set(sys.modules))
    said = {"classes": json.loads(metadata["classes"]), "weights_sha256": metadata["weights_sha256"]}
    print(json.dumps({"version": version, "known": known} | said))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
