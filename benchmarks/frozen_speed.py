"""What `--freeze backbone` costs: a whole training of the classifier over one evaluation pass, in the same process.

    python benchmarks/frozen_speed.py --dataset PATH --model resnest26d --image-size 128

Prints one Markdown table; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import datasets
import lightning as L
import timm
import torch
import tyro

from finetune import ImageClassificationTask, ImageDataModule, RunConfig
from finetune.data.dataset import LabelledImages, prepare
from finetune.loading.allocator import freed_memory_kept
from finetune.networks import models
from finetune.networks.feature_data import IMAGES_AT_ONCE, FeatureDataModule
from finetune.networks.freezing import classifier_of
from finetune.runs.runfolder import RunFolder
from finetune.tasks import registry
from finetune.tasks.classification.feature_classification import FeatureClassificationTask
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.training.session import Session, make_trainer, quiet

_CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
_OPTIMISATION = ("optimizer", "lr", "weight_decay", "warmup_epochs", "label_smoothing", "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Time of a frozen backbone's training against one evaluation pass over the same images."""

    dataset: Annotated[
        str, tyro.conf.arg(help_behavior_hint="(default: clothing where it is at hand, else digits)")
    ] = ""
    """As `python -m finetune` takes it."""
    model: str = "resnest26d"
    """Any timm model; its weights are random, which costs the same."""
    image_size: int = 128
    """Side of the square input in pixels."""
    max_samples: int | None = None
    """Use at most so many images of each split."""
    epochs: int = 20
    """Of the classifier."""
    repeats: int = 3
    """Rounds; in each the pass and the training are measured once, in turn."""
    accelerator: str = "auto"
    """auto, cpu, gpu."""
    workers: int | None = None
    """Processes that decode; chosen from the cores at hand when not given."""
    threads: int | None = None
    """Of PyTorch."""
    json: Path | None = None
    """File for every number."""


class OneSplit(L.LightningDataModule):
    """A split of a data module as the test split of another."""

    def __init__(self, images: ImageDataModule, role: str) -> None:
        super().__init__()
        self.images, self.role = images, role
        self.on_after_batch_transfer = images.on_after_batch_transfer

    def test_dataloader(self) -> Any:
        """In batches as large as those that features are computed in."""
        return self.images.eval_dataloader(self.role, IMAGES_AT_ONCE)


def evaluation_pass(config: RunConfig, data: LabelledImages, task: ImageClassificationTask, loader: Any) -> float:
    """Seconds for the scores of every split, as `python -m finetune evaluate` computes them: float32, no gradients."""
    began = time.perf_counter()
    trainer = make_trainer(config.accelerator, config.devices, [])
    for role in data.splits.parts:
        with quiet(), freed_memory_kept():
            trainer.test(task, OneSplit(loader, role), verbose=False)
    return time.perf_counter() - began


def frozen_training(config: RunConfig, task: ImageClassificationTask, images: Any) -> tuple[float, float]:
    """Seconds from nothing to the scores of the last split, checkpoints and metrics.csv included, and for features."""
    began = time.perf_counter()
    classifier = classifier_of(task.model)
    classes = images.num_classes
    options = {name: getattr(config, name) for name in _OPTIMISATION}
    head = FeatureClassificationTask(classifier, classes, **options)
    loader = FeatureDataModule(images, task, classifier, task.model)
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.checkpoints.mkdir()
        session = Session(config, folder)
        session.plan(config, CLASSIFICATION)
        session.fit(head, loader, {}, None)
        for role in ("validation", "test"):
            session.evaluate(head, loader, role)
    return time.perf_counter() - began, loader.seconds


def measure(options: Options) -> dict[str, Any]:
    """All rounds.

    Returns:
        By kind (`evaluation`, `cold`, `warm`, `features`), the seconds of each round; number of images; batch size.
    """
    dataset = options.dataset or (str(_CLOTHING) if _CLOTHING.is_dir() else "digits")
    given = {"epochs": options.epochs, "accelerator": options.accelerator, "image_size": options.image_size}
    config = RunConfig(model=options.model, dataset=dataset, pretrained=False, freeze="backbone", **given).resolved()
    config = dataclasses.replace(config, devices="1")
    data = prepare(dataset, registry.READING, max_samples=options.max_samples)
    found: dict[str, Any] = {"images": sum(data.splits.counts().values()), "batch_size": config.batch_size}
    found["seconds"] = {kind: [] for kind in ("evaluation", "cold", "warm", "features")}
    for _ in range(options.repeats):
        model = models.build(options.model, len(data.schema.classes), False, options.image_size)
        images = ImageDataModule(
            data,
            batch_size=config.batch_size or 0,
            data_config=models.data_config(model, options.image_size),
            crop_scale=None,
            hflip=0.0,
            workers=options.workers,
        )
        task = ImageClassificationTask(model, len(data.schema.classes))
        found["seconds"]["evaluation"].append(evaluation_pass(config, data, task, images))
        seconds, features = frozen_training(config, task, images)
        found["seconds"]["cold"].append(seconds)
        found["seconds"]["features"].append(features)
        found["seconds"]["warm"].append(frozen_training(config, task, images)[0])
    return {**found, "dataset": Path(dataset).name}


def as_table(found: dict[str, Any], options: Options) -> str:
    """Markdown, numbers to the right."""
    names = {
        "evaluation": "one evaluation pass",
        "cold": f"{options.epochs} epochs, features not cached",
        "features": "of which features",
        "warm": f"{options.epochs} epochs, features cached",
    }
    lines = ["| | seconds | ± | over one pass |", "| --- | ---: | ---: | ---: |"]
    for kind, name in names.items():
        seconds = found["seconds"][kind]
        ratios = [value / base for value, base in zip(seconds, found["seconds"]["evaluation"], strict=True)]
        spread = (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} | {100 * spread:.0f} % | {statistics.median(ratios):.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = tyro.cli(Options, args=argv, description=__doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    cache = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as empty:  # nothing is cached from before, and nothing stays
        try:
            datasets.config.HF_DATASETS_CACHE = empty
            found = measure(options)
        finally:
            datasets.config.HF_DATASETS_CACHE = cache
            shutil.rmtree(empty, ignore_errors=True)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(
        f"{options.model}, {options.image_size} px, {found['dataset']}: {found['images']} images, batch "
        f"{found['batch_size']}; median of {options.repeats} rounds"
    )
    print(f"torch {torch.__version__}; timm {timm.__version__}; threads {torch.get_num_threads()}; {load}", end="\n\n")
    print(as_table(found, options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
