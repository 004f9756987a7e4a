"""Lightning's loggers by name: each an extra, imported only when it is asked for, all of them within the run folder.

A run that is resumed goes on in the same logger run: its id lies in `logger.json` of the run folder. Each of several
seeds has a logger run of its own, RUN-seedS, in the same place. The services' own variables are respected: TRACKIO_DIR,
TRACKIO_SPACE_ID, WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError
from finetune.runs.runfolder import RunFolder, write_text

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

PACKAGES = {
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""By logger: what must be importable. mlflow keeps local runs in a database."""

_PROJECT = "finetune"


def check(name: str) -> None:
    """Find out early whether a logger is there.

    Raises:
        ConfigError: Its extra is not installed.
    """
    missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--logger {name}: {' and '.join(missing)} not found; pip install 'resnest-timm[{name}]', or leave it out: "
            "metrics.csv is written anyway"
        )


def make(name: str, folder: RunFolder, settings: dict[str, Any], resumed_at: int | None = None) -> Logger:
    """A logger of a run; settings are logged as its hyperparameters. In the first process only.

    Args:
        name: `tensorboard`, `trackio`, `wandb` or `mlflow`.
        folder: Of the run.
        settings: The resolved config.
        resumed_at: Optimizer step that the run goes on from.
    """
    known = _ids(folder)
    key = name if folder.seed is None else f"{name}, seed {folder.seed}"
    key = key if folder.share is None else f"{name}, share {folder.share}"
    makers = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb, "mlflow": _mlflow}
    logger = makers[name](folder, known.get(key), resumed_at)
    if key not in known:
        logger.log_hyperparams(settings)
        write_text(folder.logger, json.dumps(known | {key: logger.version}) + "\n")
    return logger


def finish(logger: Logger, settings: dict[str, Any], results: dict[str, float], step: int) -> None:
    """Log the evaluation of the exported model, and close the logger.

    Args:
        logger: In the first process.
        settings: The resolved config.
        results: By name.
        step: The last optimizer step.
    """
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    if isinstance(logger, TensorBoardLogger):  # its table of hyperparameters wants results beside them
        logger.log_hyperparams(settings, results, step)
    else:
        logger.log_metrics(results, step)
    logger.finalize("success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _ids(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.logger.read_text(encoding="utf-8")) if folder.logger.is_file() else {}
    return found


def _tensorboard(folder: RunFolder, known: str | None, resumed_at: int | None) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    # Steps that a killed run had logged after its last checkpoint are taken back.
    later: dict[str, Any] = {} if known is None or resumed_at is None else {"purge_step": resumed_at + 1}
    return TensorBoardLogger(folder.root, name="tensorboard", version=folder.part, default_hp_metric=False, **later)


def _trackio(folder: RunFolder, known: str | None, resumed_at: int | None) -> Logger:
    from finetune.training.trackio import TrackioLogger

    logger = TrackioLogger(_PROJECT, folder.title, folder.root / "trackio", known)
    if known is not None:  # each part's settings replace those before
        logger.log_hyperparams(folder.settings())
    return logger


def _wandb(folder: RunFolder, known: str | None, resumed_at: int | None) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(folder.title, folder.root, project=project, id=known or uuid.uuid4().hex[:12])


def _mlflow(folder: RunFolder, known: str | None, resumed_at: int | None) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    local = None
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        address, local = f"sqlite:///{folder.root / 'mlflow.db'}", (folder.root / "mlflow").as_uri()
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=folder.title,
        tracking_uri=address,
        artifact_location=local,
        run_id=known,
    )
    if known is not None:  # the first part was marked as failed or killed
        logger.experiment.update_run(known, "RUNNING")
    return logger
