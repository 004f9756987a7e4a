"""What a finished run says of itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from finetune.data.checks.account import excluded
from finetune.data.dataset import LabelledImages
from finetune.evaluation import slices, spread
from finetune.evaluation.study.learning_curve import Curve
from finetune.export.model_folder import stock_architecture
from finetune.loading.cores import available_cores
from finetune.loading.workers import default_workers
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings import command
from finetune.settings.config import RunConfig
from finetune.task import Judging, Score
from finetune.training import data_wait
from finetune.training.callbacks import limits
from finetune.training.session import Session

SETTINGS = (
    "optimizer",
    "lr",
    "weight_decay",
    "layer_decay",
    "clip_grad",
    "ema",
    "device_batch_size",
    "grad_checkpointing",
    "warmup_epochs",
    "schedule",
    "label_smoothing",
    "crop_scale",
    "hflip",
    "auto_augment",
    "color_jitter",
    "random_erasing",
    "mixup",
    "cutmix",
    "zero_init_last",
    "drop_path",
    "dropout",
    "drop_block",
    "head_init",
    "batch_norm",
    "freeze",
    "unfreeze_every",
    "imbalance",
    "patience",
    "steps_per_epoch",
)
"""Settings of the training that result.json keeps."""
FEWEST_TO_CHOOSE_BY = 100
"""Validation images below which the best epoch would be chosen by chance."""
LAST, SOLVED = "the last epoch", "solved"
"""What `training.chosen_by` says, where it is not the scores that choose."""


def chooses(config: RunConfig, data: LabelledImages) -> bool:
    """Whether the best epoch is chosen on validation.

    From pretrained weights the last one is as good where only few images would decide
    (docs/explanation/presets.md). How many a stream has is not known before it is read: it chooses.
    """
    return not config.pretrained or config.streaming or data.splits.counts()["validation"] >= FEWEST_TO_CHOOSE_BY


def plan(config: RunConfig, folder: RunFolder, session: Session) -> str:
    """What will be trained where, as the training begins."""
    trainer = session.trainer
    device = trainer.strategy.root_device.type
    where = f"{trainer.world_size} x {device}" if trainer.world_size > 1 else device
    lines = [f"run folder: {folder.path}"]
    if config.solved:
        lines.append(f"on {where}, precision {session.precision}: the classifier alone, solved for")
    else:
        start = "pretrained weights" if config.pretrained else "random weights"
        of = "the backbone stays as it is, " if config.freeze == "backbone" else ""
        lines.append(
            f"on {where}, precision {session.precision}: {config.epochs} epoch{'' if config.epochs == 1 else 's'} from "
            f"{start}, {of}batches of {config.batch_size}, {config.optimizer} at {config.lr:g}"
        )
    return "\n".join(lines)


def describe(
    config: RunConfig,
    folder: RunFolder,
    data: LabelledImages,
    model: nn.Module,
    data_config: dict[str, Any],
    session: Session,
    metrics: dict[str, dict[str, float]],
) -> RunResult:
    """Gather a run's numbers and facts."""
    return RunResult(
        task=data.schema.task,
        model=_model(config, model, data_config),
        dataset=_dataset(data) | {"max_samples": config.max_samples},
        metrics=metrics,
        training=_training(config, session),
        seed=config.seed,
        command=command.words(config),
        folder=folder.root,
    )


def _model(config: RunConfig, model: nn.Module, data_config: dict[str, Any]) -> dict[str, Any]:
    pretrained: Any = model.pretrained_cfg if config.pretrained else {}
    return {
        "name": config.model,
        "architecture": stock_architecture(model)[0],
        "pretrained": config.pretrained,
        "pretrained_tag": pretrained.get("tag"),
        "base_model": pretrained.get("hf_hub_id"),
        "base_license": pretrained.get("license"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": data_config["input_size"][-1],
        "weights": "raw" if config.ema is None else "averaged",
    }


def _dataset(data: LabelledImages) -> dict[str, Any]:
    source = data.source
    return {
        "id": source.id,
        "hub": source.hub,
        "config": source.config,
        "revision": source.revision,
        "license": source.license,
        "classes": list(data.schema.classes),
        "splits": data.splits.counts(),
        "sources": {role: part.source for role, part in data.splits.parts.items()},
        **data.schema.facts({role: part.targets for role, part in data.splits.parts.items()}),
        "held_out": data.splits.held_out,
        "excluded": excluded(data),
        **data.facts,
    }


def _training(config: RunConfig, session: Session) -> dict[str, Any]:
    best, features = session.checkpoints.best_epoch, session.feature_seconds
    scores = f"validation {', then '.join(of.title for of in session.checkpoints.ranking)}"
    return {
        **(_solved(session) if config.solved else _trained(config, session)),
        "best_epoch": None if best is None else best + 1,
        "chosen_by": SOLVED if config.solved else scores if session.checkpoints.chooses else LAST,
        "batch_size": config.batch_size,
        "devices": session.trainer.world_size,
        **({} if features is None else {"feature_seconds": round(features, 3)}),
        "precision": session.precision,
        **{name: getattr(config, name) for name in SETTINGS},
    }


def _trained(config: RunConfig, session: Session) -> dict[str, Any]:
    epochs = session.epochs
    partial = epochs.passes - epochs.count + 1  # of the last epoch, the only one that can have been cut short
    return {
        "epochs": epochs.count,
        "planned_epochs": config.epochs,
        "partial_epoch": None if partial > 1 - 1e-9 else round(partial, 6),
        "stopped_by": session.limits.stopped_by,
        "seconds": round(epochs.seconds, 3),
        "images_per_second": round(epochs.trained / epochs.train_seconds, 3),
        "data_wait": round(epochs.waited / epochs.train_seconds, 6),
    }


def _solved(session: Session) -> dict[str, Any]:
    found = session.baseline.epoch0
    assert found is not None  # or there would be no run
    images = {"images_per_second": round(found.probe.images / found.seconds, 3)}
    return {"epochs": 0, "planned_epochs": 0, "stopped_by": None, "seconds": round(found.seconds, 3), **images}


def remarks(config: RunConfig, data: LabelledImages, session: Session, image_size: int) -> list[str]:
    """What the user should know of how the training went: why it ended early, what it waited for."""
    lines = [ended_early(config, session), not_beaten(config, session)]
    if config.solved:
        return [line for line in lines if line]
    share = session.epochs.waited / session.epochs.train_seconds
    if share > data_wait.NOTEWORTHY:
        rows = data.splits.parts["train"].rows
        cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", session.trainer.num_devices)))
        workers = default_workers(len(rows)) if config.workers is None else config.workers
        side = data_wait.short_side(data.sample("train", data_wait.IMAGES))
        policy = config.auto_augment is not None
        lines.append(data_wait.suggestion(share, workers, cores, side, image_size, policy))
    return [line for line in lines if line]


def ended_early(config: RunConfig, session: Session) -> str | None:
    """Why, and what of the schedule was cut; None for a training that came to its planned end."""
    epochs, best = session.epochs, session.checkpoints.best_trained
    if session.limits.stopped_by == limits.PATIENCE:
        return (
            f"stopped by --patience {config.patience} after {epochs.count} of {config.epochs} epochs: none was better "
            f"than epoch {best[2] + 1 if best else 1}"
        )
    if session.limits.stopped_by == limits.MAX_TIME:
        whole = int(epochs.passes + 1e-9)
        advice = f"--epochs {whole} would have come to its end" if whole else "not even one epoch fits in"
        return (
            f"stopped by --max-time {config.max_time} after {epochs.passes:.3g} of {config.epochs} epochs: the "
            f"learning rate had not yet come down, which costs accuracy; {advice}"
        )
    return None


def not_beaten(config: RunConfig, session: Session) -> str | None:
    """That the training has brought nothing, where it has not."""
    if config.solved or session.checkpoints.best_epoch != -1:
        return None
    return (
        "the training did not beat the linear probe on validation: the probe is exported (epoch 0). A lower --lr or "
        "more --epochs may do better; --freeze backbone gives the same model in seconds"
    )


def table(result: RunResult, task: Judging, scores: Sequence[Score]) -> str:
    """The few lines that end a run: test numbers, and where everything lies.

    Args:
        result: Of the run.
        task: What was learnt.
        scores: Of the task, in their order.
    """
    folder = result.folder
    counts = result.dataset["splits"]
    test, validation = result.metrics["test"], result.metrics["validation"]
    known = result.evaluation.get("intervals", {}).get("test", {})
    intervals = {name: f"[{_number(low)}, {_number(high)}]" for name, (low, high) in known.items()}
    seeds = result.evaluation.get("seeds")
    over = f"{'test, ' + str(len(seeds['each'])) + ' seeds':>20}" if seeds else ""
    lines = ["", f"{'':20}{'test':>10}{'95 % interval':>20}{'validation':>12}{over}"]
    lines += [
        _row(of.title, test[of.key], intervals.get(of.key, ""), validation[of.key])
        + (f"{spread.cell(seeds, of.key):>20}" if seeds else "")
        for of in scores
        if of.key in test
    ]
    lines += [_row(*floor) for floor in task.floors(result)]
    lines += [f"{'images':20}{counts['test']:>10}{'':20}{counts['validation']:>12}"]
    if best := result.training.get("best_epoch"):
        lines.append(
            f"{'exported epoch':20}{best:>10} of {result.training['epochs']}, by {result.training['chosen_by']}"
        )
    lines.append("")
    if result.model.get("weights") == "averaged":
        lines.insert(-1, f"{'weights':20}averaged over the steps (--ema {result.training['ema']:g})")
    lines += [*task.remarks(result), *slices.lines(result.evaluation), ""] if result.evaluation else []
    lines += [*Curve.of(result.evaluation["curve"]).lines(), ""] if "curve" in result.evaluation else []
    paths = {"model": "model", "numbers": "result.json", "card": "model/README.md"}
    lines += [f"{name:20}{folder / path if folder else path}" for name, path in paths.items()]
    if folder:
        run = shlex.quote(os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder))
        verbs = (f"predict {run} IMAGES", f"demo {run}", f"export {run} --format onnx")
        lines += ["", *(f"{'next' if not n else '':20}python -m finetune {verb}" for n, verb in enumerate(verbs))]
    return "\n".join(lines)


def _row(title: str, test: float, interval: str, validation: float) -> str:
    return f"{title:20}{_number(test):>10}{interval:>20}{_number(validation):>12}"


def _number(value: float) -> str:
    """Four decimals, or as many digits where these would hide a small number or make a large one longer."""
    return f"{value:.4f}" if value == 0 or 5e-4 <= abs(value) < 1e5 else f"{value:.4g}"
