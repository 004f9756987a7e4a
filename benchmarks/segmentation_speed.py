"""Training of a segmentation, ours beside a plain PyTorch loop, in one run: the network's steps, and its input.

    python benchmarks/segmentation_speed.py --dataset ../shared/data/nuclei --model resnest14d --size 256

Prints one Markdown table; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import datetime
import io
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from sides import Candidate, compare, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.data.dataset import LabelledImages, prepare
from finetune.loading.cores import available_cores
from finetune.tasks.segmentation import network as networks
from finetune.tasks.segmentation.datamodule import MaskDataModule
from finetune.tasks.segmentation.masks import VOID
from finetune.tasks.segmentation.module import SegmentationTask
from finetune.tasks.segmentation.schema import READING


@dataclass
class Options:
    """What is trained on what, and how often."""

    dataset: str
    """A folder or Hub id with images and masks."""
    model: str = "resnest14d"
    """The backbone; both start from random weights."""
    decoder: str = "fpn"
    """The decoder."""
    size: int = 256
    """Side of the training crops, in pixels."""
    batch_size: int = 8
    """Images per step."""
    steps: int = 3
    """Training steps of each network in a round."""
    repeats: int = 5
    """Rounds."""
    images: int = 256
    """Training images that are read, at most."""
    workers: int = 0
    """Processes that decode, the same for both."""
    bf16: bool = False
    """Both networks in bfloat16 where autocast has it."""


class PlainRows(TorchDataset[tuple[Tensor, Tensor]]):
    """Pillow and torchvision, in the order of torchvision's own recipe for segmentation."""

    def __init__(self, data: LabelledImages, module: MaskDataModule, size: int) -> None:
        part, schema = data.splits.parts["train"], data.schema
        self.rows = data.encoded("train").select(part.rows.tolist())
        self.image, self.mask = schema.image_column, schema.target_column
        config = module.data_config
        fill = {tv_tensors.Image: [round(255 * value) for value in config["mean"]], tv_tensors.Mask: VOID}
        self.transform = v2.Compose(
            [
                v2.RandomResize(size // 2, 2 * size, antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop(size, pad_if_needed=True, fill=fill),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(config["mean"], config["std"]),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        image = Image.open(io.BytesIO(row[self.image]["bytes"])).convert("RGB")
        mask = torch.from_numpy(np.array(row[self.mask]))  # of indices
        pixels, target = self.transform(tv_tensors.Image(v2.functional.pil_to_tensor(image)), tv_tensors.Mask(mask))
        return pixels, target


def training(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], options: Options) -> Callable[[], int]:
    """Some steps on one batch of noise: forward, backward, AdamW."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, 3, options.size, options.size)
    images = torch.randn(shape, generator=generator)
    pixels = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 2, (shape[0], *shape[2:]), generator=generator)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def go() -> int:
        for _ in range(options.steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                value = loss(pixels, targets)
            value.backward()
            optimizer.step()
        return options.steps * options.batch_size

    return go


def steps_of_both(options: Options) -> Iterator[Candidate]:
    """The networks: ours, and the same decoder of smp over timm's backbone of that name, channels last both."""
    built = networks.build(options.model, 2, False, options.decoder, image_size=options.size)
    ours = SegmentationTask(built.to(memory_format=torch.channels_last), 2)
    yield Candidate("ours", training(ours, ours.training_loss, options))
    name = str(built.arguments["encoder_name"])
    kind = getattr(smp, networks.DECODERS[options.decoder])
    plain = kind(name, encoder_weights=None, classes=2).to(memory_format=torch.channels_last)

    def loss(pixels: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(plain(pixels), targets)

    yield Candidate("plain", training(plain, loss, options))


def input_of_both(options: Options) -> Iterator[Candidate]:
    """The loaders, from the same encoded images and masks."""
    data = prepare(options.dataset, READING, max_samples=options.images)
    module = MaskDataModule(data, options.size, options.batch_size, workers=options.workers)
    loader = module.train_dataloader()

    def ours() -> int:
        return sum(len(module.normalize(pixels)) for pixels, _ in loader)

    yield Candidate("ours", ours)
    rows = PlainRows(data, module, options.size)
    plain = DataLoader(
        rows, options.batch_size, shuffle=True, num_workers=options.workers, persistent_workers=options.workers > 0
    )
    yield Candidate("plain", lambda: sum(len(pixels) for pixels, _ in plain))


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, description=__doc__)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        kind = f"{options.model}, {options.decoder}, {options.size} px, {'bf16' if options.bf16 else 'float32'}"
        rows = [
            compare(f"steps: {kind}", list(steps_of_both(options)), options.repeats),
            compare(f"input: {Path(options.dataset).name}", list(input_of_both(options)), options.repeats),
        ]
    versions = f"torch {torch.__version__}; timm {timm.__version__}; smp {smp.__version__}"
    print(f"{datetime.date.today()}; {available_cores()} cores, one thread; {versions}; {platform.python_version()}\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
