"""Images per second that come out of our training loader and of timm's, from the same parquet file, in one run.

    python benchmarks/input_speed.py --dataset ../shared/data/clothing ../shared/data/bccd --size 128 96

Prints one Markdown table; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
import tyro
from timm.data import create_dataset, create_loader

from finetune import ImageDataModule
from finetune.data import images, source
from finetune.data.dataset import LabelledImages
from finetune.data.splits import SplitRows, Splits
from finetune.loading import jpeg
from finetune.loading.cores import available_cores
from finetune.tasks.classification.reading import infer


@dataclass
class Options:
    """What is read, and how often."""

    dataset: tuple[str, ...]
    """Folders or Hub ids; of each, the images of the split are read."""
    size: tuple[int, ...]
    """For each dataset: side of the square images that come out, in pixels."""
    workers: int | None = None
    """Processes that decode, the same for all; the cores at hand, 8 at most, when not given."""
    repeats: int = 7
    """Rounds; in each, every loader gives one epoch."""
    batch_size: int = 32
    """Images per batch."""
    crop_scale: float = 0.35
    """Smallest share of an image that a crop keeps."""
    split: str = "train"
    """The source's split."""
    image_column: str = "image"
    """Its images."""
    images: int = 1000
    """So many are read an epoch: the dataset is cut, or repeated, so that an epoch is not all beginning and end."""


@dataclass
class Candidate:
    """A loader, and what it took."""

    name: str
    batches: Iterable[Any]
    normalize: Any = None
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def epoch(self) -> int:
        """Go through it once; how many images there were."""
        count = 0
        for pixels, _ in self.batches:
            ready = pixels if self.normalize is None else self.normalize(pixels)
            if ready.dtype != torch.float32:
                raise TypeError(f"{self.name}: expected normalised float32 images, got {ready.dtype}")
            count += len(ready)
        return count

    def measure(self) -> None:
        """One epoch: images per second, and seconds of CPU per image of this process and the workers."""
        cpu, start = cpu_seconds(), time.perf_counter()
        count = self.epoch()
        self.rates.append(count / (time.perf_counter() - start))
        self.cpu.append((cpu_seconds() - cpu) / count)


def cpu_seconds() -> float:
    """Of this process and the workers it has; of other systems than Linux, of this process alone."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            words = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return total


def write_parquet(name: str, options: Options, folder: Path) -> None:
    """The images as they are, with a label that timm's reader wants, so that both loaders read the same file."""
    opened = source.load(name).splits[options.split].select_columns([options.image_column])
    opened = opened.cast_column(options.image_column, datasets.Image(decode=False))
    if options.image_column != "image":
        opened = opened.rename_column(options.image_column, "image")
    opened = datasets.concatenate_datasets([opened] * -(-options.images // len(opened))).select(range(options.images))
    labels = [i % 2 for i in range(len(opened))]
    opened = opened.add_column("label", labels).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    opened.cast_column("image", datasets.Image()).to_parquet(str(folder / "train-00000-of-00001.parquet"))


def candidates(folder: Path, size: int, workers: int, options: Options) -> Iterator[Candidate]:
    opened = source.load(str(folder))
    found = infer(opened.splits["train"].features)
    count = len(opened.splits["train"])
    part = SplitRows("train", np.arange(count), np.arange(count) % 2, whole=True)
    data = LabelledImages(opened, found, Splits({"train": part}))
    for name, read in (("ours", jpeg.open_jpeg), ("ours, by Pillow in full", images.decode)):
        module = ImageDataModule(data, size, options.batch_size, crop_scale=options.crop_scale, workers=workers)
        loader = module.train_dataloader()
        loader.dataset.read = read  # type: ignore[attr-defined]  # it is an ImageRows
        yield Candidate(name, loader, module.normalize)
    config = module.data_config
    yield Candidate(
        "timm",
        create_loader(
            create_dataset(f"hfds/{folder}", root=None, split="train", is_training=True),
            input_size=config["input_size"],
            batch_size=options.batch_size,
            is_training=True,
            scale=(options.crop_scale, 1.0),
            hflip=0.5,
            color_jitter=None,
            **{key: config[key] for key in ("interpolation", "mean", "std")},
            num_workers=workers,
            device=torch.device("cpu"),
        ),
    )


def compare(name: str, size: int, options: Options) -> str:
    """One row of the table."""
    workers = min(8, available_cores()) if options.workers is None else options.workers
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_parquet(name, options, folder)
        found = list(candidates(folder, size, workers, options))
        for candidate in found:
            candidate.epoch()  # starts the workers
        for number in range(options.repeats):
            for candidate in found[number % 3 :] + found[: number % 3]:
                candidate.measure()
    ours, full, timms = found
    cells = [Path(name).name, str(size), str(workers), *(show(candidate) for candidate in found)]
    cells += [f"{statistics.median(ours.rates) / statistics.median(timms.rates):.2f}"]
    cells += [f"{statistics.median(timms.cpu) / statistics.median(ours.cpu):.2f}"]
    cells += [f"{statistics.median(full.rates) / statistics.median(timms.rates):.2f}"]
    return f"| {' | '.join(cells)} |"


def show(candidate: Candidate) -> str:
    """Median of the rounds, half their range, and the median of the CPU time."""
    middle = statistics.median(candidate.rates)
    spread = (max(candidate.rates) - min(candidate.rates)) / 2 / middle
    return f"{middle:.0f} ±{100 * spread:.0f} %, {1e3 * statistics.median(candidate.cpu):.2f}"


HEADER = (
    *("dataset", "px", "workers", "ours: img/s, CPU ms/img", "ours, by Pillow in full", "timm"),
    *("ours / timm", "by CPU time", "in full / timm"),
)


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, args=arguments, description=__doc__)
    if len(options.dataset) != len(options.size):
        print(f"--size: one per dataset, got {len(options.size)} for {len(options.dataset)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        rows = [compare(*pair, options) for pair in zip(options.dataset, options.size, strict=True)]
    versions = f"torch {torch.__version__}; timm {timm.__version__}; python {platform.python_version()}"
    print(f"{datetime.date.today()}; {available_cores()} cores; {versions}; median of {options.repeats} rounds\n")
    print(f"| {' | '.join(HEADER)} |\n| {' | '.join(['---', *['---:'] * (len(HEADER) - 1)])} |")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
