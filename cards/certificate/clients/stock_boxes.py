"""A detector's model.onnx in onnxruntime, images prepared by its metadata (`cards.certificate.clients`).

`logits` are the highest score of each class in each image, `boxes` where these are, in pixels of what the detector
looks at; 0 where a class was not found. The request also has `file`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

Array = np.ndarray[Any, Any]

TIE = 1e-4
"""Difference of two scores below which rounding decides which one is the higher."""


def prepare(image: Image.Image, how: dict[str, Any]) -> Array:
    """RGB image -> uint8 `[3, h, w]`, made as large as the detector looks at it."""
    scale = min(how["min_size"] / min(image.size), how["max_size"] / max(image.size))
    size = tuple(max(1, round(scale * side)) for side in image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    return np.asarray(image).transpose(2, 0, 1)


def best(found: Mapping[str, Array], count: int, near: Array) -> tuple[Array, Array]:
    """The highest score of each class, and its box.

    Args:
        found: `boxes` `[n, 4]`, `labels` `[n]` and `scores` `[n]`.
        count: Of the classes.
        near: float32 `[count, 4]`; of a class's boxes that are equally sure the one that lies nearest to these counts.
    """
    scores, boxes = np.zeros(count, np.float32), np.zeros((count, 4), np.float32)
    for label in range(count):
        mine = np.flatnonzero(found["labels"] == label)
        if len(mine):
            scores[label] = found["scores"][mine].max()
            equal = mine[found["scores"][mine] >= scores[label] - TIE]
            apart = np.abs(found["boxes"][equal] - near[label]).max(axis=1)
            boxes[label] = found["boxes"][equal[apart.argmin()]]
    return scores, boxes


def finder(session: Any, how: dict[str, Any]) -> Callable[[Array], dict[str, Array]]:
    """uint8 `[3, h, w]` -> what is found, by the names of the outputs."""
    names = [output.name for output in session.get_outputs()]
    mean, std = (np.array(how[name], np.float32)[:, None, None] for name in ("mean", "std"))

    def find(pixels: Array) -> dict[str, Array]:
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        return dict(zip(names, session.run(names, {"pixels": normalised[None]}), strict=True))

    return find


def main(model: str, verify: str, output: str, file: str) -> None:
    """Find objects in the same pixels, and in the images as the metadata say."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are of shapes that are right at run time
    session = onnxruntime.InferenceSession(Path(model, file), options, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(about["preprocessing"]), json.loads(about["classes"])
    known = load_file(Path(verify, "inputs.safetensors"))
    near = known["boxes"].reshape(len(known["boxes"]), len(classes), 4)
    pictures = [Image.open(path).convert("RGB") for path in sorted(Path(verify, "images").glob("*.png"))]
    find = finder(session, how)
    same = [best(find(known[f"pixels_{n:03}"]), len(classes), near[n]) for n in range(len(pictures))]
    own = [best(find(prepare(picture, how)), len(classes), near[n])[0] for n, picture in enumerate(pictures)]
    scores, boxes = (np.stack(of) for of in zip(*same, strict=True))
    np.savez(output, logits=scores, boxes=boxes.reshape(len(boxes), -1), own=np.stack(own))
    imported = sorted({"cards", "finetune", "resnest_timm", "timm", "torch", "torchvision"} & set(sys.modules))
    said = {"classes": classes, "weights_sha256": about["weights_sha256"], "known": imported}
    print(json.dumps({"version": onnxruntime.__version__} | said))


if __name__ == "__main__":
    main(**json.load(sys.stdin))
