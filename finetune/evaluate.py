"""`python -m finetune evaluate RUN`: the exported model of a run, on the images that its splits.json names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import yaml

from finetune import models, schema, source
from finetune.console import is_main_process, log
from finetune.datamodule import ImageDataModule
from finetune.dataset import LabelledImages, inspect
from finetune.errors import DatasetError, RunFolderError, listing
from finetune.report import METRIC_NAMES
from finetune.result import RunResult
from finetune.runfolder import RunFolder
from finetune.splits import ROLES, SplitRows, Splits
from finetune.tasks import TASKS
from finetune.training import make_trainer, quiet


@dataclass(frozen=True)
class Evaluation:
    """Numbers of one split.

    Attributes:
        run: Run folder.
        split: `train`, `validation` or `test`.
        images: How many were evaluated.
        metrics: Computed now.
        recorded: Those of the run's result.json; none for `train`.
    """

    run: Path
    split: str
    images: int
    metrics: dict[str, float]
    recorded: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"run": str(self.run), "split": self.split, "images": self.images, "metrics": self.metrics}


def evaluate_run(
    run: Path,
    split: str = "test",
    accelerator: str = "auto",
    devices: str = "1",
    batch_size: int = 64,
    workers: int | None = None,
) -> Evaluation:
    """Evaluate a run's exported model again, in float32.

    Args:
        run: Run folder.
        split: `train`, `validation` or `test`, as the run's splits.json names them.
        accelerator: Lightning's.
        devices: Lightning's; every image is counted once however many there are.
        batch_size: Images per batch and device.
        workers: Decoding processes per device; chosen from the cores at hand when not given.

    Raises:
        RunFolderError: The folder holds no complete run, or no such split.
        DatasetError: The dataset is gone, or has changed since.
    """
    folder = RunFolder(run.absolute())
    result = RunResult.load(folder.result)
    if split not in ROLES:
        raise RunFolderError(f"--split must be one of {', '.join(ROLES)}, got {split!r}")
    data = _reopen(folder, result, split)
    model = timm.create_model(f"local-dir:{folder.model}", pretrained=True)
    loader = ImageDataModule(data, batch_size=batch_size, data_config=models.data_config(model), workers=workers)
    task = TASKS[result.task](model, num_classes=len(data.schema.classes))
    trainer = make_trainer(accelerator, devices, [])
    with quiet():
        trainer.test(task, loader, verbose=False)
    return Evaluation(
        folder.path, split, len(data.splits.parts["test"].rows), task.exact, result.metrics.get(split, {})
    )


def _reopen(folder: RunFolder, result: RunResult, role: str) -> LabelledImages:
    """The run's dataset, with the images of `role` as its test split."""
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    if config["dataset"] is None:
        raise DatasetError(f"the run in {folder.path} was made from a dataset in memory: it cannot be opened again")
    opened = source.load(config["dataset"], config["dataset_config"], config["revision"])
    found, targets = inspect(opened.splits, config["image_column"], config["target_column"])
    if list(found.classes) != result.dataset["classes"]:
        raise DatasetError(
            f"the dataset has changed since the run: its classes were {listing(result.dataset['classes'])}, now they "
            f"are {listing(found.classes)}"
        )
    entry = json.loads(folder.splits.read_text(encoding="utf-8"))[role]
    name, expected = entry["source"], result.dataset["splits"][role]
    labels = found.encode(targets[name]) if name in targets else np.empty(0, dtype=np.int64)
    rows = np.arange(len(labels)) if entry["rows"] == "all" else np.array(entry["rows"], dtype=np.int64)
    if len(rows) != expected or rows.max(initial=-1) >= len(labels) or (labels[rows] == schema.UNLABELLED).any():
        raise DatasetError(
            f"the dataset has changed since the run: split {name!r} had the {expected} images of {role} that "
            f"{folder.splits} names, and now has {len(labels)} images"
        )
    return LabelledImages(opened, found, Splits({"test": SplitRows(name, rows, labels[rows])}))


def report(evaluation: Evaluation, as_json: bool = False) -> None:
    """Print the numbers, in the first process only."""
    if not is_main_process():
        return
    if as_json:
        print(json.dumps(evaluation.to_json()))
        return
    recorded = evaluation.recorded
    log.info(f"\n{'':20}{evaluation.split:>12}{'result.json' if recorded else '':>14}")
    for name, value in evaluation.metrics.items():
        log.info(f"{METRIC_NAMES[name]:20}{value:>12.6f}{recorded[name] if name in recorded else '':>14.6}")
    log.info(f"{'images':20}{evaluation.images:>12}")
