"""Training and evaluation of a detector, ours beside torchvision's own and its reference scripts' way, in one run.

    python benchmarks/detection_speed.py --dataset ../shared/data/bccd --model resnet50d --size 320

Prints one Markdown table; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import timm
import torch
import torchvision
import tyro
from sides import Candidate, compare, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.transforms import v2

from finetune.data.dataset import LabelledImages, prepare
from finetune.loading.cores import available_cores
from finetune.networks import models
from finetune.settings.config import RunConfig
from finetune.tasks import registry
from finetune.tasks.detection import learning
from finetune.tasks.detection.loading.datamodule import DetectionDataModule, stored
from finetune.tasks.detection.module import DetectionTask
from finetune.tasks.detection.networks import build, losses
from finetune.tasks.detection.networks.draws import Draws
from finetune.training import hardware


@dataclass
class Options:
    """What is trained on what, and how often."""

    dataset: str
    """A folder or Hub id with boxes."""
    model: str = "resnet50d"
    """The backbone, of stock timm; both start from the same random weights."""
    size: int = 320
    """Short side of the images, in pixels."""
    batch_size: int = 4
    """Images per step."""
    repeats: int = 3
    """Rounds."""
    whole: int = 16
    """Images of the comparison of whole trainings at their defaults."""
    images: int = 64
    """Images of each split that are read, at most."""
    bf16: bool = False
    """Both networks train in bfloat16 where autocast has it."""


class Plain(nn.Module):
    """A timm backbone under torchvision's feature pyramid, as its tutorials have it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 256, extra_blocks=LastLevelMaxPool())
        self.out_channels = 256

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The levels by name."""
        found: dict[str, Tensor] = self.fpn({str(level): one for level, one in enumerate(self.body(pixels))})
        return found


class AsTheyAre(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform for images that have their size already: it only makes a batch."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """The batch, and the targets as they are."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        return ImageList(self.batch_images(images), sizes), targets


def batch_of(module: DetectionDataModule, options: Options) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """The first training batch, normalised, with labels from 0."""
    pixels, targets = next(iter(module.train_dataloader()))
    return [one[None].float().div(255).sub(0.45).div(0.225)[0] for one in pixels], targets


def steps_of_both(module: DetectionDataModule, outputs: int, options: Options) -> Iterator[Candidate]:
    """One step on the same batch: forward, backward, SGD."""
    images, targets = batch_of(module, options)
    ours = build.build(options.model, "faster-rcnn", outputs, False, options.size).train()
    ours = ours.to(memory_format=torch.channels_last)

    def loss() -> Tensor:
        parts = losses.of_batch(ours, images, targets, Draws(images, 0, 0)).values()
        return torch.stack([part.total / max(1.0, part.number) for part in parts]).sum()

    yield Candidate("ours", stepping(ours, loss, options))
    plain = FasterRCNN(Plain(options.model), outputs + 1).train().to(memory_format=torch.channels_last)
    plain.transform = AsTheyAre(options.size, 10**6, [0.0] * 3, [1.0] * 3)
    shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]

    def theirs() -> Tensor:
        return torch.stack(list(plain(images, shifted).values())).sum()

    yield Candidate("torchvision", stepping(plain, theirs, options))


def whole_of_both(data: LabelledImages, module: DetectionDataModule, options: Options) -> Iterator[Candidate]:
    """Loading and training as each comes: our precision, anchors, regions and layout, and torchvision's."""
    outputs = len(data.schema.classes)
    model = build.build(options.model, "faster-rcnn", outputs, False, options.size).train()
    learning.fit_anchors(model, model.layout, module)
    model = model.to(memory_format=torch.channels_last)
    narrow = hardware.precision("auto", "cpu") == "bf16-mixed"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def ours() -> int:
        count = 0
        for pixels, targets in module.train_dataloader():
            images = module.on_after_batch_transfer([pixels, targets], 0)[0]
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                parts = losses.of_batch(model, images, targets, Draws(images, 0, 0)).values()
            optimizer.zero_grad()
            torch.stack([part.total / max(1.0, part.number) for part in parts]).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            count += len(images)
        return count

    yield Candidate("ours", ours)
    plain = FasterRCNN(Plain(options.model), outputs + 1, options.size, round(options.size * 5 / 3)).train()
    descent = torch.optim.SGD(plain.parameters(), 1e-5, momentum=0.9)
    loader = plain_loader(data, module, options)

    def theirs() -> int:
        count = 0
        for images, targets in loader:
            shifted = [target | {"labels": torch.as_tensor(target["labels"]) + 1} for target in targets]
            descent.zero_grad()
            torch.stack(list(plain(list(images), shifted).values())).sum().backward()
            descent.step()
            count += len(images)
        return count

    yield Candidate("torchvision", theirs)


def stepping(network: nn.Module, loss: Callable[[], Tensor], options: Options) -> Callable[[], int]:
    """A step of a network."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-5, momentum=0.9)

    def go() -> int:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            value = loss()
        value.backward()
        optimizer.step()
        return options.batch_size

    return go


class PlainRows(TorchDataset[tuple[Tensor, dict[str, Any]]]):
    """Pillow and torchvision, as the reference scripts for detection load COCO: their `hflip` preset."""

    def __init__(self, data: LabelledImages, module: DetectionDataModule) -> None:
        self.rows = data.encoded("train").select(data.splits.parts["train"].rows.tolist())
        self.image, self.inputs = data.schema.image_column, module.inputs
        self.transform = v2.Compose(
            [v2.PILToTensor(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        row = self.rows[index]
        image = stored(row[self.image])
        found = self.inputs._objects(image, {name: row[name] for name in self.inputs.columns if name in row})
        image = image.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(found.boxes, format="XYXY", canvas_size=(image.height, image.width))
        made: tuple[Tensor, dict[str, Any]] = self.transform(image, {"boxes": boxes, "labels": found.labels})
        return made


def plain_loader(data: LabelledImages, module: DetectionDataModule, options: Options) -> Any:
    """Their way of loading, on the main process as ours here."""
    rows = PlainRows(data, module)
    return DataLoader(rows, options.batch_size, shuffle=True, collate_fn=lambda some: tuple(zip(*some, strict=True)))


def input_of_both(data: LabelledImages, module: DetectionDataModule, options: Options) -> Iterator[Candidate]:
    """The loaders, from the same encoded images, to the batch that the backbone sees."""
    loader = module.train_dataloader()

    def ours() -> int:
        count = 0
        for pixels, _ in loader:
            whole = module.on_after_batch_transfer([pixels, []], 0)[0]
            count += len(whole)
        return count

    yield Candidate("ours", ours)
    config = module.data_config
    resize = GeneralizedRCNNTransform(options.size, round(options.size * 5 / 3), config["mean"], config["std"])
    plain = plain_loader(data, module, options)

    def theirs() -> int:
        count = 0
        for images, targets in plain:
            made, _ = resize(list(images), list(targets))
            count += len(made.image_sizes)
        return count

    yield Candidate("torchvision", theirs)


def scoring(module: DetectionDataModule, outputs: int, options: Options) -> str:
    """Seconds of an evaluation pass of ours, and how much of them are COCO's average precision."""
    task = DetectionTask(build.build(options.model, "faster-rcnn", outputs, False, options.size)).eval()
    begun = time.perf_counter()
    with torch.inference_mode():
        for pixels, targets in module.eval_dataloader("test"):
            images = module.on_after_batch_transfer([pixels, targets], 0)[0]
            sizes = [(int(target["size"][0]), int(target["size"][1])) for target in targets]
            task.scores["test"].update(task.find(images, sizes), targets)
    found = time.perf_counter()
    task.scores["test"].compute()
    judged = time.perf_counter()
    return (
        f"an evaluation pass of {len(module.data.splits.parts['test'].rows)} images: {judged - begun:.1f} s, "
        f"{100 * (judged - found) / (judged - begun):.1f} % of them for average precision"
    )


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, description=__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        reader = registry.reader("object-detection", RunConfig(model=options.model, dataset=options.dataset))
        data = prepare(options.dataset, reader, max_samples=options.images)
        config = models.data_config(models.build(options.model, None, False), options.size)
        module = DetectionDataModule(data, config, batch_size=options.batch_size, workers=0)
        outputs = len(data.schema.classes)
        kind = f"{options.model}, Faster R-CNN, {options.size} px, {'bf16' if options.bf16 else 'float32'}"
        rows = [
            compare(f"steps: {kind}", list(steps_of_both(module, outputs, options)), options.repeats),
            compare(
                f"input: {Path(options.dataset).name}", list(input_of_both(data, module, options)), options.repeats
            ),
        ]
        few = prepare(options.dataset, reader, max_samples=options.whole)
        module_of_few = DetectionDataModule(few, config, batch_size=options.batch_size, workers=0)
        what = f"training, each at its defaults: {options.model}, {options.size} px"
        rows.append(compare(what, list(whole_of_both(few, module_of_few, options)), options.repeats))
        said = scoring(module, outputs, options)
    versions = f"torch {torch.__version__}; timm {timm.__version__}; torchvision {torchvision.__version__}"
    print(f"{datetime.date.today()}; {available_cores()} cores, one thread; {versions}; {platform.python_version()}\n")
    print(table(rows))
    print(f"\n{said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
