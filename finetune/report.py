"""What a finished run says of itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune import imbalance
from finetune.config import RunConfig
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
    "layer_decay",
    "clip_grad",
    "ema",
    "device_batch_size",
    "grad_checkpointing",
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
    "freeze",
    "unfreeze_every",
    "imbalance",
)
"""Settings of the training that result.json keeps."""


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
        "class_counts": {role: data.class_counts(role) for role in data.splits.parts},
        "imbalance_ratio": round(imbalance.ratio(data.class_counts("train")), 3),
        "held_out": data.splits.held_out,
        "excluded": excluded(data),
    }


def _training(config: RunConfig, data: LabelledImages, session: Session) -> dict[str, Any]:
    images = len(data.splits.parts["train"].rows) * session.epochs.count
    best, features = session.checkpoints.best_epoch, session.feature_seconds
    return {
        "epochs": config.epochs,
        "best_epoch": None if best is None else best + 1,
        "batch_size": config.batch_size,
        "seconds": round(session.epochs.seconds, 3),
        "images_per_second": round(images / session.epochs.train_seconds, 3),
        "devices": session.trainer.world_size,
        **({} if features is None else {"feature_seconds": round(features, 3)}),
        "precision": session.precision,
        **{name: getattr(config, name) for name in SETTINGS},
    }


def table(result: RunResult) -> str:
    """The few lines that end a run: test numbers, and where everything lies."""
    folder = result.folder
    counts = result.dataset["splits"]
    test, validation = result.metrics["test"], result.metrics["validation"]
    known = result.evaluation.get("intervals", {}).get("test", {})
    intervals = {name: f"[{low:.4f}, {high:.4f}]" for name, (low, high) in known.items()}
    lines = ["", f"{'':20}{'test':>10}{'95 % interval':>20}{'validation':>12}"]
    lines += [
        f"{METRIC_NAMES[name]:20}{test[name]:>10.4f}{intervals.get(name, ''):>20}{validation[name]:>12.4f}"
        for name in METRIC_NAMES
        if name in test
    ]
    if floor := result.evaluation.get("majority_class"):
        lines += [f"{'always one class':20}{floor['test']:>10.4f}{'':20}{floor['validation']:>12.4f}"]
    lines += [f"{'images':20}{counts['test']:>10}{'':20}{counts['validation']:>12}", ""]
    if result.model.get("weights") == "averaged":
        lines.insert(-1, f"{'weights':20}averaged over the steps (--ema {result.training['ema']:g})")
    lines += [*_remarks(result.evaluation), ""] if result.evaluation else []
    paths = {"model": "model", "numbers": "result.json", "card": "model/README.md"}
    lines += [f"{name:20}{folder / path if folder else path}" for name, path in paths.items()]
    return "\n".join(lines)


def _remarks(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers of the table rest on."""
    lines = [f"always one class: the accuracy of answering {evaluation['majority_class']['class']!r} every time"]
    if calibration := evaluation.get("calibration"):
        test = calibration["test"]
        lines.append(calibration_line(calibration["temperature"], test["error"], test["error_calibrated"]))
        lines += [f"temperature {calibration['note']}"] if "note" in calibration else []
    return lines


def calibration_line(temperature: float, error: float, calibrated: float) -> str:
    """One line on calibration, for people."""
    return f"calibration error: {error:.4f}, and {calibrated:.4f} at temperature {temperature:.3f}"
