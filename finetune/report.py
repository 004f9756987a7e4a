"""What a finished run says of itself."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from finetune import data_wait, imbalance
from finetune.callbacks import limits
from finetune.config import RunConfig
from finetune.datamodule import available_cores, default_workers
from finetune.dataset import LabelledImages, excluded
from finetune.export import stock_architecture
from finetune.result import RunResult
from finetune.runfolder import RunFolder
from finetune.training import Session

METRIC_NAMES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "loss": "loss",
}
SETTINGS = (
    "optimizer",
    "lr",
    "weight_decay",
    "warmup_epochs",
    "label_smoothing",
    "crop_scale",
    "hflip",
    "auto_augment",
    "color_jitter",
    "random_erasing",
    "mixup",
    "cutmix",
    "drop_path",
    "dropout",
    "drop_block",
    "imbalance",
    "patience",
)
"""Settings of the optimisation that result.json keeps."""


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
        training=_training(config, data, session),
        seed=config.seed,
        folder=folder.path,
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
        "class_counts": {role: data.class_counts(role) for role in data.splits.parts},
        "imbalance_ratio": round(imbalance.ratio(data.class_counts("train")), 3),
        "held_out": data.splits.held_out,
        "excluded": excluded(data),
    }


def _training(config: RunConfig, data: LabelledImages, session: Session) -> dict[str, Any]:
    epochs, best = session.epochs, session.checkpoints.best_epoch
    images, trained = len(data.splits.parts["train"].rows), epochs.train_seconds
    partial = epochs.passes - epochs.count + 1  # of the last epoch, the only one that can have been cut short
    return {
        "epochs": epochs.count,
        "planned_epochs": config.epochs,
        "partial_epoch": None if partial > 1 - 1e-9 else round(partial, 6),
        "stopped_by": session.limits.stopped_by,
        "best_epoch": None if best is None else best + 1,
        "batch_size": config.batch_size,
        "seconds": round(session.epochs.seconds, 3),
        "images_per_second": round(images * epochs.passes / trained, 3),
        "data_wait": round(epochs.waited / trained, 6),
        "devices": session.trainer.world_size,
        "precision": session.precision,
        **{name: getattr(config, name) for name in SETTINGS},
    }


def remarks(config: RunConfig, data: LabelledImages, session: Session, image_size: int) -> list[str]:
    """What the user should know of how the training went: why it ended early, what it waited for."""
    lines = [ended_early(config, session)]
    share = session.epochs.waited / session.epochs.train_seconds
    if share > data_wait.NOTEWORTHY:
        rows = data.splits.parts["train"].rows
        cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", session.trainer.num_devices)))
        workers = default_workers(len(rows)) if config.workers is None else config.workers
        side = data_wait.short_side(data.encoded("train"), data.schema.image_column, rows.tolist())
        policy = config.auto_augment is not None
        lines.append(data_wait.suggestion(share, workers, cores, side, image_size, policy))
    return [line for line in lines if line]


def ended_early(config: RunConfig, session: Session) -> str | None:
    """Why, and what of the schedule was cut; None for a training that came to its planned end."""
    epochs, best = session.epochs, (session.checkpoints.best_epoch or 0) + 1
    if session.limits.stopped_by == limits.PATIENCE:
        return (
            f"stopped by --patience {config.patience} after {epochs.count} of {config.epochs} epochs: none was better "
            f"than epoch {best}"
        )
    if session.limits.stopped_by == limits.MAX_TIME:
        whole = int(epochs.passes + 1e-9)
        advice = f"--epochs {whole} would have come to its end" if whole else "not even one epoch fits in"
        return (
            f"stopped by --max-time {config.max_time} after {epochs.passes:.3g} of {config.epochs} epochs: the "
            f"learning rate had not yet come down along its cosine, which costs accuracy; {advice}"
        )
    return None


def table(result: RunResult) -> str:
    """The few lines that end a run: test numbers, and where everything lies."""
    folder = result.folder
    counts = result.dataset["splits"]
    test, validation = result.metrics["test"], result.metrics["validation"]
    lines = ["", f"{'':20}{'test':>10}{'validation':>12}"]
    lines += [
        f"{METRIC_NAMES[name]:20}{test[name]:>10.4f}{validation[name]:>12.4f}" for name in METRIC_NAMES if name in test
    ]
    lines += [f"{'images':20}{counts['test']:>10}{counts['validation']:>12}", ""]
    paths = {"model": "model", "numbers": "result.json", "card": "model/README.md"}
    lines += [f"{name:20}{folder / path if folder else path}" for name, path in paths.items()]
    return "\n".join(lines)
