"""From a dataset's name to a finetuned image model that stock timm and transformers load.

    from finetune import RunConfig, run
    result = run(RunConfig(model="resnest50", dataset="food101"))

`ImageDataModule` and `ImageClassificationTask` also work in a Lightning Trainer of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.commands.evaluate import evaluate
    from finetune.commands.predict import predict
    from finetune.commands.train import run
    from finetune.errors import FinetuneError
    from finetune.evaluation.evaluation import Evaluation
    from finetune.runs.result import RunResult
    from finetune.serving.predictor import Prediction, Predictor
    from finetune.settings.config import RunConfig
    from finetune.settings.verbs import EvaluateOptions, PredictOptions
    from finetune.tasks.classification.datamodule import ImageDataModule
    from finetune.tasks.classification.image_classification import ImageClassificationTask
    from finetune.tasks.modules import TASKS

_HOMES = {
    "RunConfig": "finetune.settings.config",
    "FinetuneError": "finetune.errors",
    "ImageDataModule": "finetune.tasks.classification.datamodule",
    "EvaluateOptions": "finetune.settings.verbs",
    "Evaluation": "finetune.evaluation.evaluation",
    "evaluate": "finetune.commands.evaluate",
    "PredictOptions": "finetune.settings.verbs",
    "predict": "finetune.commands.predict",
    "Prediction": "finetune.serving.predictor",
    "Predictor": "finetune.serving.predictor",
    "RunResult": "finetune.runs.result",
    "run": "finetune.commands.train",
    "TASKS": "finetune.tasks.modules",
    "ImageClassificationTask": "finetune.tasks.classification.image_classification",
}

__all__ = [
    "TASKS",
    "EvaluateOptions",
    "Evaluation",
    "FinetuneError",
    "ImageClassificationTask",
    "ImageDataModule",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "RunConfig",
    "RunResult",
    "evaluate",
    "predict",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `python -m finetune --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
