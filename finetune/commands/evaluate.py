"""`python -m finetune evaluate`: a run again on its own images, or any model on any dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from finetune.commands import evaluate_published as published_model
from finetune.commands import start
from finetune.commands.start import is_model
from finetune.commands.trust import leaks
from finetune.data import source
from finetune.data.checks.account import excluded
from finetune.data.dataset import LabelledImages, guarded, inspect, whole_split
from finetune.data.splits import ROLES, SplitRows, Splits
from finetune.errors import ConfigError, DatasetError, RunFolderError, listing
from finetune.evaluation import published
from finetune.evaluation.evaluation import Evaluation
from finetune.examining import Examining
from finetune.loading import choose, transforms
from finetune.loading.allocator import freed_memory_kept
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import models
from finetune.runs import model_files
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.settings.verbs import EvaluateOptions
from finetune.task import Task
from finetune.tasks import registry
from finetune.training.session import make_trainer, quiet


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Evaluate what the flags name, in float32; each image is counted once on any number of devices.

    Raises:
        FinetuneError: The run, the model or the dataset does not exist, cannot be read, or does not fit the others.
    """
    options.check()
    start.check_evaluation(options)
    if options.dataset is None:
        return evaluate_published(options) if is_model(options.model) else evaluate_run(options)
    return evaluate_model(options)


def evaluate_published(options: EvaluateOptions) -> Evaluation:
    """Evaluate a model on the very images that its card's numbers are of, from its repository or folder alone.

    Raises:
        ConfigError: It does not say which images those are, or they are of a dataset that nobody else has.
        DatasetError: The dataset is gone, or has changed since.
    """
    folder = published_model.fetched(options.model)
    if folder is None:
        raise ConfigError(
            f"--dataset must be given: {options.model} has no {published_model.NAME} that says what it was tested on"
        )
    said, data = published_model.opened(folder)
    task = registry.get(said["task"])
    model = task.load(folder)
    loader = _loader(task, data, models.data_config(model), options)
    metrics = _scores(task.evaluator(model, len(said["classes"])), loader, options)
    subject = {"model": options.model, "dataset": said["dataset"]["id"], "split": said["split"]}
    titles = {score.key: score.title for score in task.scores}
    return Evaluation(subject, len(data.splits.parts["test"].rows), metrics, said["metrics"], titles=titles)


def evaluate_run(options: EvaluateOptions) -> Evaluation:
    """Evaluate a run's exported model again, on the images that its splits.json names.

    Raises:
        RunFolderError: The folder holds no complete run, or no such split.
        DatasetError: The dataset is gone, or has changed since.
    """
    folder = RunFolder(Path(options.model).expanduser().absolute())
    result = RunResult.load(folder.result)
    split = options.split or "test"
    if split not in ROLES:
        raise RunFolderError(f"--split must be one of {', '.join(ROLES)}, got {split!r}")
    task = registry.get(result.task)
    data = reopen(folder, result, split)
    model = task.load(folder.model)
    loader = _loader(task, data, models.data_config(model), options)
    collector = task.collector()
    metrics = _scores(task.evaluator(model, len(data.schema.classes)), loader, options, collector)
    count, expected = len(data.splits.parts["test"].rows), result.dataset["splits"][split]
    if split != "train" and count != expected:  # a stream is counted while it is read
        raise DatasetError(f"the dataset has changed since the run: {split} had {expected} images, and now has {count}")
    return Evaluation(
        {"run": str(folder.path), "split": split},
        count,
        metrics,
        result.metrics.get(split, {}),
        titles={score.key: score.title for score in task.scores},
        without_leaks=leaks.again(result, collector.last, task, data, split),
        **(task.reassess(collector.last, result, folder.model) if collector.last else {}),
    )


def evaluate_model(options: EvaluateOptions) -> Evaluation:
    """Evaluate a run's or any other model on a whole split of a dataset.

    Raises:
        ModelError: The model cannot be built, or the dataset's classes are not its own.
        DatasetError: The dataset cannot be opened.
        SchemaError: The dataset's columns do not say what to evaluate.
        SplitError: The dataset has no such split.
    """
    name = options.model
    run = RunFolder(Path(name).expanduser().absolute())
    if run.result.is_file():
        name = f"local-dir:{run.model}"
    task = registry.of_model(name)
    model = registry.open_model(task, name, options.image_size)
    data = whole_split(
        options.dataset or "",
        registry.reader(task.name, options),
        split=options.split,
        dataset_config=options.dataset_config,
        revision=options.revision,
        image_column=options.image_column,
        target_column=options.target_column,
        max_samples=options.max_samples,
        max_image_pixels=options.max_image_pixels,
    )
    target, outputs, known = task.aligned(data, model)
    part = data.splits.parts["test"]
    data_config = models.data_config(model, options.image_size)
    loader = _loader(task, target, data_config, options)
    metrics = _scores(task.evaluator(model, outputs), loader, options)
    images = published.benchmark(data)
    size = data_config["input_size"][-1]
    return Evaluation(
        {
            "model": options.model,
            "dataset": data.source.id,
            "revision": data.source.revision,
            "split": part.source,
            **known,
            "protocol": _protocol(options.protocol, data_config),
            "excluded": excluded(data),
        },
        len(part.rows),
        metrics,
        published=published.find(model, images, options.protocol, size) if images else None,
        titles={score.key: score.title for score in task.scores},
    )


def _protocol(name: str, data_config: dict[str, Any]) -> dict[str, Any]:
    size = data_config["input_size"][-1]
    if name == "paper":
        return {"name": name, "image_size": size, "crop_pct": size / (size + 32), "interpolation": "bicubic"}
    return {"name": name, "image_size": size, **{key: data_config[key] for key in ("crop_pct", "interpolation")}}


def _loader(task: Task, data: LabelledImages, data_config: dict[str, Any], options: EvaluateOptions) -> ImageDataModule:
    loader: ImageDataModule = task.data_module(
        data, data_config, batch_size=options.batch_size, workers=options.workers
    )
    if options.protocol == "paper" and loader.own_inputs is not None:
        raise ConfigError(f"--protocol paper crops images, and {task.name} looks at whole ones: leave it out")
    if options.protocol == "paper":
        loader.eval_transform = transforms.paper(data_config)
    return loader


def _scores(module: Any, loader: ImageDataModule, options: EvaluateOptions, *callbacks: Callback) -> dict[str, float]:
    trainer = make_trainer(options.accelerator, options.devices, [*callbacks])
    with quiet(), freed_memory_kept():
        trainer.test(module, loader, verbose=False)
    scores: dict[str, float] = module.exact
    return scores


def reopen(folder: RunFolder, result: RunResult, role: str) -> LabelledImages:
    """The run's dataset, with the images of `role` as its test split.

    Raises:
        DatasetError: The dataset is gone, was in memory, or has changed since.
        RunFolderError: config.yaml or splits.json is missing, damaged or another than the run has written.
    """
    config = {"dataset_config": None, "revision": None, "image_column": None, "target_column": None} | folder.settings()
    if config["dataset"] is None:
        raise DatasetError(f"the run in {folder.path} was made from a dataset in memory: it cannot be opened again")
    task = registry.get(result.task)
    if stream := choose.reopen_stream(config, task, role):
        return stream
    opened = source.load(config["dataset"], config["dataset_config"], config["revision"])
    reader = registry.reader(task.name, config)
    found, columns = inspect(opened.splits, reader, config["image_column"], config["target_column"], opened.roots)
    if isinstance(found, Examining):
        found = found.remembered(result.dataset)
    opened = guarded(opened, found)
    if list(found.classes) != result.dataset["classes"]:
        raise DatasetError(
            f"the dataset has changed since the run: its classes were {listing(result.dataset['classes'])}, now they "
            f"are {listing(found.classes)}"
        )
    entry = model_files.check_splits(folder.root)[role]
    name, expected = entry["source"], result.dataset["splits"][role]
    targets = found.encode(columns.get(name, []))
    rows = np.arange(len(targets)) if entry["rows"] == "all" else np.array(entry["rows"], dtype=np.int64)
    if len(rows) != expected or rows.max(initial=-1) >= len(targets) or not found.labelled(targets[rows]).all():
        raise DatasetError(
            f"the dataset has changed since the run: split {name!r} had the {expected} images of {role} that "
            f"{folder.splits} names, and now has {len(targets)} images"
        )
    limit = config.get("max_image_pixels", MAX_IMAGE_PIXELS)  # a run of an earlier version had the default
    return LabelledImages(opened, found, Splits({"test": SplitRows(name, rows, targets[rows])}), max_image_pixels=limit)
