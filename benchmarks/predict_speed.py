"""Images per second of predict's loop and of the evaluation loop, on the same images, in turn, in one process.

    python benchmarks/predict_speed.py --model resnest50d

Both loops read, decode and prepare the images and run the model in float32; loading the model and searching the dataset
for broken images are left out. Prints one Markdown table. Weights are random.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import tyro
from PIL import Image

import resnest_timm  # noqa: F401  registers
from finetune import ImageClassificationTask, ImageDataModule, Predictor
from finetune.commands import predict_rows
from finetune.data.dataset import LabelledImages, whole_split
from finetune.export import model_folder
from finetune.loading.allocator import freed_memory_kept
from finetune.networks import models
from finetune.serving import inputs as predict_inputs
from finetune.tasks import registry
from finetune.training.session import make_trainer, quiet

CLASSES = [str(number) for number in range(10)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    model: str = "resnest50d"
    """Any timm name."""
    size: int = 224
    """Side of the model's input in pixels."""
    images: int = 256
    """How many; JPEGs of 500 by 375 pixels."""
    batch_size: int = 32
    """Images per batch."""
    workers: int | None = None
    """Processes that decode; chosen from the cores at hand when not given."""
    repeats: int = 3
    """Rounds; each measures both loops."""
    threads: int | None = None
    """torch's threads."""


def photographs(folder: Path, count: int) -> None:
    """Smooth coloured shapes with some grain, which compress like photographs; one folder per class."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(coarse).astype(np.int16) + rng.integers(-8, 9, (375, 500, 3))
        place = folder / CLASSES[number % len(CLASSES)]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number:05}.jpg", quality=90)


def loops(folder: Path, data: LabelledImages, options: Options) -> dict[str, Callable[[], Any]]:
    """The two loops, ready to run."""
    predictor = Predictor(folder, accelerator="auto")
    part, column = data.splits.parts["test"], data.schema.image_column
    inputs = predict_rows.from_rows(data.source.splits[part.source], column, part.source, part.rows.tolist())

    def predict() -> list[str]:
        batches = predict_inputs.loader(inputs, predictor.transform, options.batch_size, options.workers)
        with freed_memory_kept():
            return [answer.top[0][0] for batch in batches for answer in predictor.predict(batch.pixels)]

    model = models.build(f"local-dir:{folder}", None, pretrained=True)
    task = ImageClassificationTask(model, num_classes=len(CLASSES))
    settings: dict[str, Any] = {"batch_size": options.batch_size, "workers": options.workers}
    loader = ImageDataModule(data, data_config=models.data_config(model), **settings)
    trainer = make_trainer("auto", "1", [])

    def evaluate() -> float:
        with quiet(), freed_memory_kept():
            trainer.test(task, loader, verbose=False)
        return task.exact["accuracy"]

    return {"predict": predict, "evaluate": evaluate}


def main() -> int:
    options = tyro.cli(Options)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        pictures, folder = Path(scratch, "photographs"), Path(scratch, "model")
        pictures.mkdir()
        photographs(pictures, options.images)
        torch.manual_seed(0)
        model = timm.create_model(options.model, num_classes=len(CLASSES))
        model_folder.save(model, folder, CLASSES, models.data_config(model, options.size))
        data = whole_split(str(pictures), registry.READING)
        both = loops(folder, data, options)
        answers = both["predict"]()  # the first of each warms up
        right = np.mean([int(name) for name in answers] == data.splits.parts["test"].targets)
        if abs(right - both["evaluate"]()) > 1.5 / options.images:  # one image may lie on the border
            print("the two loops disagree: no ratio", file=sys.stderr)
            return 1
        seconds: dict[str, list[float]] = {name: [] for name in both}
        for turn in range(options.repeats):
            for name in sorted(both, reverse=bool(turn % 2)):
                start = time.perf_counter()
                both[name]()
                seconds[name].append(time.perf_counter() - start)
    print(table(seconds, options))
    return 0


def table(seconds: dict[str, list[float]], options: Options) -> str:
    """Markdown; the spread is half the range of the rounds over their median."""
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    spread = {name: (max(times) - min(times)) / 2 / middle[name] for name, times in seconds.items()}
    speeds = [f"{options.images / middle[name]:.1f} ±{100 * spread[name]:.0f} %" for name in ("predict", "evaluate")]
    header = "| model | px | img/s predict | img/s evaluate | predict / evaluate |"
    ratio = middle["evaluate"] / middle["predict"]
    row = f"| {options.model} | {options.size} | {speeds[0]} | {speeds[1]} | {ratio:.2f} |"
    return "\n".join([header, "| --- | ---: | ---: | ---: | ---: |", row])


if __name__ == "__main__":
    sys.exit(main())
