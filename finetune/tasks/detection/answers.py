"""What `predict` says of the objects in images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from finetune.errors import ConfigError
from finetune.task import Record
from finetune.tasks.detection import ascoco, prepare
from finetune.tasks.detection.exporting import finder
from finetune.tasks.detection.figures import boxes
from finetune.tasks.detection.judging import threshold
from finetune.tasks.detection.networks import finding

_PICTURE = "picture"


class _Whole:
    """PIL RGB -> uint8 `[3, H, W]`; images of several sizes stay a list."""

    def __call__(self, image: Image.Image) -> Tensor:
        """In its own size: boxes are in its pixels."""
        return prepare.whole(image)

    @staticmethod
    def collate(images: Sequence[Tensor]) -> list[Tensor]:
        """Of a batch."""
        return list(images)


class ObjectAnswers:
    """`objects` of each image: `label`, `score` (calibrated), `box` (x0, y0, x1, y1 in pixels), and perhaps `mask`.

    Args:
        model: A run's or a model's folder, or a file that `export` has written.
        accelerator: Where it runs, in Lightning's terms.

    Raises:
        ConfigError: A file's library is not installed, or has no such accelerator.
        ModelError: There is no such model, or it is damaged.
    """

    transform = _Whole()

    def __init__(self, model: str | Path, accelerator: str) -> None:
        self.finder = finder.opened(model, accelerator)
        self.folder, self.layout, about = self.finder.folder, self.finder.layout, self.finder.about
        self.classes: list[str] = about["classes"]
        self.threshold = float(about["threshold"])
        self.temperature = float(about["temperature"] or 1.0)
        self.says = [
            f"{len(self.classes)} classes, objects from score {self.threshold:.3f} on, temperature "
            f"{self.temperature:.4g}"
        ]
        if about["temperature"] is None:
            self.says.append("the model has no calibration: scores are the model's own (temperature 1)")

    def find(self, pixels: Tensor) -> finding.Found:
        """All that is found in an image, uint8 `[3, H, W]` in its own size; labels and scores are the model's own."""
        size = (pixels.shape[-2], pixels.shape[-1])
        with torch.inference_mode():
            image = prepare.looked_at(pixels.cpu(), self.layout).to(self.finder.device)
            return self.finder.find(image, size)

    def records(self, pixels: Sequence[Tensor], options: Any) -> list[Record]:
        """Of images in their own size. `--min-confidence` takes the place of the threshold, and is of probabilities."""
        made: list[Record] = []
        for image in pixels:
            objects = self.objects(self.find(image), options.min_confidence)
            size = {"height": image.shape[-2], "width": image.shape[-1]} if options.format == "coco" else {}
            made.append({"objects": objects, **size})
        return made

    def objects(self, found: finding.Found, least: float = 0.0) -> list[Record]:
        """As `records` has them, the surest first."""
        scores = found["scores"].cpu().double().numpy()
        likely = threshold.calibrated(scores, self.temperature)
        shown = likely >= least if least else scores >= self.threshold
        objects = []
        for i in (-scores).argsort(kind="stable").tolist():
            if shown[i]:
                one: Record = {
                    "label": self.classes[int(found["labels"][i])],
                    "score": round(float(likely[i]), 6),
                    "box": [round(side, 2) for side in found["boxes"][i].tolist()],
                }
                objects.append(one | ({"mask": as_text(found["rles"][i])} if "rles" in found else {}))
        return objects

    def brief(self, record: Record) -> str:
        """How many objects of each class."""
        counts = Counter(one["label"] for one in record["objects"])
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"

    def coco(self, records: Sequence[Record]) -> Record:
        """As COCO has datasets, with a `score` at each annotation; images that cannot be read are not in it."""
        return ascoco.document([record for record in records if "error" not in record], self.classes)

    def columns(self, options: Any) -> Sequence[str]:
        """count, objects (as JSON), error."""
        return ["count", "objects", "error"]

    def flat(self, record: Record) -> Record:
        """A record by these columns."""
        if "objects" not in record:
            return record
        return {**record, "count": len(record["objects"]), "objects": json.dumps(record["objects"])}


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """COCO's compressed run lengths as JSON has them."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


class PictureAnswers(ObjectAnswers):
    """The same, and each image with its objects drawn into it, in a folder.

    Args:
        model: A run's or a model's folder.
        accelerator: Where it runs, in Lightning's terms.
        folder: For the pictures; made where there is none.

    Raises:
        ConfigError: No folder is given.
    """

    def __init__(self, model: str | Path, accelerator: str, folder: Path | None) -> None:
        if folder is None:
            raise ConfigError("--overlay needs --output FOLDER, where the pictures go")
        super().__init__(model, accelerator)
        self.pictures = Path(folder).expanduser()
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.written: set[str] = set()

    def records(self, pixels: Sequence[Tensor], options: Any) -> list[Record]:
        """With the image itself, until `keep` has drawn into it."""
        found = super().records(pixels, options)
        return [record | {_PICTURE: image} for record, image in zip(found, pixels, strict=True)]

    def keep(self, name: Record, record: Record) -> Record:
        """Write an image's picture; the record that names it."""
        image = F.to_pil_image(record.pop(_PICTURE))
        shown = [
            boxes.Shown(
                one["box"],
                f"{one['label']} {one['score']:.2f}",
                boxes.colour(self.classes.index(one["label"])),
                one.get("mask"),
            )
            for one in reversed(record["objects"])
        ]
        path = self.pictures / f"{self._stem(name)}.overlay.png"
        boxes.draw(image, shown).save(path)
        return record | {"overlay": str(path)}

    def _stem(self, name: Record) -> str:
        """The image's own name; with a number where several have one."""
        own = PurePath(str(name["image"])).stem if "image" in name else f"{name['split']}-{name['row']:06}"
        stem, number = own, 1
        while stem in self.written:
            number += 1
            stem = f"{own}-{number}"
        self.written.add(stem)
        return stem
