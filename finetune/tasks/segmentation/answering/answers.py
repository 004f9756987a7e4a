"""What `predict` says of images: a picture of classes, and the share of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from finetune.errors import ConfigError, ModelError
from finetune.export import formats
from finetune.networks import model_names, models
from finetune.runs import model_files
from finetune.task import Record
from finetune.tasks.segmentation.answering import exported, palette
from finetune.tasks.segmentation.answering.prepared import Prepare, Prepared
from finetune.tasks.segmentation.network import SegmentationNetwork
from finetune.tasks.segmentation.scores import largest
from finetune.training import hardware

_MASK, _PICTURE = "_mask", "_picture"
"""Of a record, before it is kept: not for JSON."""


def located(load: Callable[[Path], nn.Module], model: str | Path) -> SegmentationNetwork:
    """The network of a run or a model's folder.

    Raises:
        ModelError: It is none, or a file of another kind.
    """
    name = model_names.locate(model)
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or not model_files.is_ours(folder):
        raise ModelError(f"{model}: expected a run of semantic segmentation, or its model's folder")
    made = load(folder)
    assert isinstance(made, SegmentationNetwork)
    return made.eval()


def of(load: Callable[[Path], nn.Module], model: str | Path, options: Any) -> MaskAnswers:
    """For `predict`.

    Raises:
        ConfigError: A flag is given that masks have no use for.
        ModelError: There is no such model, or file that `export` wrote.
    """
    if options.precision != "32":
        raise ConfigError(f"--precision {options.precision}: masks are computed in float32: leave it out")
    if options.min_confidence:
        raise ConfigError("--min-confidence: a mask has a class at every pixel: leave it out")
    if options.overlay and options.output is None:
        raise ConfigError("--overlay needs --output: the folder to write to")
    form = formats.of_file(model)
    if form is None:
        network = located(load, model).to(hardware.device(options.accelerator))
    else:
        network = exported.read(form, Path(model).expanduser(), options.accelerator).eval()
    folder = None if options.output is None else Path(options.output).expanduser()
    if folder is not None:
        if folder.is_file():
            raise ConfigError(f"--output {folder} is a file: give a folder for the masks")
        folder.mkdir(exist_ok=True)
    return MaskAnswers(network, folder, options.overlay)


class MaskAnswers:
    """Records have `shares`, of each class that is there, and `mask` and `overlay`, the files that were written.

    Args:
        network: In eval mode, where it is to run.
        folder: For masks: PNGs of mode P, as large as the images; none are written when not given.
        overlay: Whether images with the colours over them are written as well.
    """

    def __init__(self, network: SegmentationNetwork, folder: Path | None, overlay: bool) -> None:
        self.network, self.folder, self.overlay = network, folder, overlay
        self.transform = Prepare(models.data_config(network), keep=overlay)
        self.written: set[str] = set()
        self.says = [f"{len(network.classes)} classes, images with a short side of {self.transform.short} pixels"]
        if folder is None:
            self.says.append("no masks are written: give --output FOLDER for them")

    def records(self, pixels: Sequence[Prepared], options: Any) -> list[Record]:
        """Of prepared images, one by one."""
        return [self._record(image) for image in pixels]

    def _record(self, image: Prepared) -> Record:
        device = _device(self.network)
        with torch.inference_mode():
            logits = self.network.whole(image.pixels.to(device))
            if not logits.isfinite().all():
                raise ModelError("the model gives NaN or infinite logits: its weights are damaged, or diverged")
            mask = largest(logits, image.size).cpu().numpy()
        picture = None if image.picture is None else image.picture.permute(1, 2, 0).numpy()
        return {"shares": palette.shares(mask, self.network.classes), _MASK: mask, _PICTURE: picture}

    def keep(self, name: Record, record: Record) -> Record:
        """Write an image's files; the record that names them.

        Args:
            name: What the image is called: `image`, or `split` and `row`.
            record: Of `records`.
        """
        mask, picture = record.pop(_MASK), record.pop(_PICTURE)
        if self.folder is None:
            return record
        stem, classes = self._stem(name), len(self.network.classes)
        paths = {"mask": self.folder / f"{stem}.png"}
        _save(palette.indexed(mask, classes), paths["mask"])
        if picture is not None:
            paths["overlay"] = self.folder / f"{stem}.overlay.png"
            _save(Image.fromarray(palette.overlaid(picture, mask, classes)), paths["overlay"])
        return record | {key: str(path) for key, path in paths.items()}

    def _stem(self, name: Record) -> str:
        """The image's own name; with a number where several have one."""
        own = PurePath(str(name["image"])).stem if "image" in name else f"{name['split']}-{name['row']:06}"
        own = own.encode("utf-8", "backslashreplace").decode()
        stem, number = own, 1
        while stem in self.written:
            number += 1
            stem = f"{own}-{number}"
        self.written.add(stem)
        return stem

    def brief(self, record: Record) -> str:
        """The classes and their shares, the largest first."""
        return ", ".join(f"{name} {share:.3f}" for name, share in list(record["shares"].items())[:5])

    def columns(self, options: Any) -> Sequence[str]:
        """mask, overlay, error, and the share of each class."""
        return ["mask", "overlay", "error", *(f"share: {name}" for name in self.network.classes)]

    def flat(self, record: Record) -> Record:
        """A record by these columns."""
        row = {key: value for key, value in record.items() if key != "shares"}
        shares = record.get("shares")
        if shares is None:
            return row
        return row | {f"share: {name}": shares.get(name, 0.0) for name in self.network.classes}


def _save(picture: Image.Image, path: Path) -> None:
    """A PNG that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    picture.save(temporary, format="png")
    temporary.replace(path)


def _device(network: nn.Module) -> torch.device:
    """Where images go; an exported file has no weights of PyTorch, and is the CPU's."""
    weight = next(network.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def mask_of(network: SegmentationNetwork, prepare: Prepare, picture: Image.Image) -> np.ndarray:
    """uint8 `[H, W]`: the answer to one RGB image."""
    image = prepare(picture)
    device = _device(network)
    with torch.inference_mode():
        return largest(network.whole(image.pixels.to(device)), image.size).cpu().numpy()
