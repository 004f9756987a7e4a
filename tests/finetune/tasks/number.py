"""A throw-away further task, how bright an image is, to see that nothing outside a task's folder asks which task it is.

Run as a script it is `python -m finetune` with that task: the processes of a training run it again.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import Value
from safetensors.torch import save_file
from torchmetrics import Metric

import cards.tasks
from finetune.data.columns import the_image
from finetune.data.splits import carve, subset
from finetune.errors import SchemaError
from finetune.evaluation.predictions import Predictions
from finetune.export import certify, model_folder
from finetune.loading import choose, transforms
from finetune.networks import models
from finetune.task import Learner, Score
from finetune.tasks import registry
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.callbacks.predictions import CollectPredictions
from finetune.training.module import TaskModule


@dataclass(frozen=True)
class Numbers:
    """A column of floats; strata are its quarters."""

    image_column: str
    target_column: str
    edges: tuple[float, ...] = ()
    task: str = "image-brightness"
    classes: tuple[str, ...] = ()
    sure: bool = True

    @property
    def columns(self):
        return (self.target_column,)

    explains = columns

    def read(self, split):
        return split[self.target_column][:]

    def described(self):
        return f"images in column {self.image_column!r}, numbers in column {self.target_column!r}"

    def with_values(self, columns):
        values = np.concatenate([np.array(column, dtype=np.float64) for column in columns])
        return replace(self, edges=tuple(np.nanquantile(values, [0.25, 0.5, 0.75])))

    def check_split(self, name, features):
        assert features[self.target_column].dtype.startswith("float")

    def encode(self, column):
        return np.array(column, dtype=np.float32)

    def labelled(self, targets):
        return np.isfinite(targets)

    def strata(self, targets):
        return np.digitize(targets, self.edges).astype(np.int64)

    def draw(self, targets, size, rng):
        return subset(np.where(self.labelled(targets), self.strata(targets), -1), size, rng)

    def carve(self, targets, fraction, rng, keep):
        return carve(self.strata(targets), fraction, rng, keep)

    def check_sizes(self, targets, carved):
        pass

    def remarks(self, targets):
        yield f"numbers from {targets.min():.3g} to {targets.max():.3g}"

    def facts(self, targets):
        return {"median": float(np.median(targets["train"]))}


class MeanAbsolute(Metric):
    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs, targets):
        self.error += (outputs.double() - targets.double()).abs().sum()
        self.count += len(targets)

    def compute(self):
        return {"mae": self.error / self.count}


class NumberModule(TaskModule):
    def __init__(self, model, optimizer="adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=0.0, seed=0):
        super().__init__()
        layer_decay, grad_checkpointing = None, False
        self.save_hyperparameters(ignore=["model"])
        self.hparams.update(layer_decay=layer_decay, grad_checkpointing=grad_checkpointing)
        self.begin(model, {"val": MeanAbsolute(), "test": MeanAbsolute()})

    def forward(self, pixels):
        return super().forward(pixels)[:, 0]

    def training_loss(self, pixels, targets):
        return torch.nn.functional.smooth_l1_loss(self(pixels), targets)

    def nothing(self, pixels):
        return pixels.new_zeros(0)


@dataclass(frozen=True)
class Said(Predictions):
    """Numbers, and what they should be."""


class Answers:
    def __init__(self, model, data_config):
        self.model, self.transform, self.says = model, transforms.normalised(data_config), ["numbers"]

    def records(self, pixels, options):
        with torch.inference_mode():
            return [{"value": value} for value in self.model(pixels)[:, 0].tolist()]

    def brief(self, record):
        return str(record["value"])

    def columns(self, options):
        return ["value", "error"]

    def flat(self, record):
        return record


class Number:
    name = "image-brightness"
    scores = ranking = (Score("mae", "mean absolute error", higher=False),)

    @property
    def heavy_head(self):
        return False

    @property
    def refused(self):
        return {"label_smoothing": "has no classes"}

    def preset(self, settings):
        return {"label_smoothing": 0.0}

    def recognise(self, features, image_column=None, target_column=None):
        found = [n for n, f in features.items() if isinstance(f, Value) and f.dtype.startswith("float")]
        if len(found) != 1:
            raise SchemaError(f"{len(found)} columns of numbers")
        return Numbers(image_column or the_image(features), target_column or found[0])

    def network(self, settings, schema, pretrained):
        return models.build(settings.model, 1, pretrained, settings.image_size)

    def data_module(self, data, data_config, **options):
        return choose.module(data, data_config=data_config, **options)

    def baseline(self, settings):
        return HeadStart()

    def learner(self, settings, images, network, baseline):
        return Learner(NumberModule(network, lr=settings.lr, seed=settings.seed), images)

    def identity(self, settings, network):
        return {}

    def collector(self):
        return CollectPredictions(Said)

    def evaluator(self, network, outputs):
        return NumberModule(network)

    def assess(self, result, predictions, data, baseline):
        errors = (predictions["test"].logits - predictions["test"].targets).abs()
        return replace(result, evaluation={"largest": float(errors.max())})

    def draw(self, result, predictions, data, folder):
        return result

    def floors(self, result):
        return iter(())

    def remarks(self, result):
        yield f"largest error {result.evaluation['largest']:.3g}"

    def reassess(self, found, result, model):
        return {}

    def save(self, network, folder, data, data_config, result):
        model_folder.save(network, folder, ["value"], data_config)

    def load(self, folder):
        return models.build(f"local-dir:{folder}", None)

    def witness(self, network, folder, data, data_config):
        folder.mkdir()
        pixels = torch.randn(2, *data_config["input_size"])
        save_file({"pixels": pixels, "logits": certify.eager_logits(network, pixels)}, folder / "inputs.safetensors")

    def answers(self, model, options, images):
        built = self.load(f"{model}/model").eval()
        return Answers(built, models.data_config(built))


# The page's own parts, as the row of the task in the table of cards names them.
FIGURES = {}


def sections(result, model):
    return {"class_count": "no"}


def floors(evaluation):
    return []


def limitations(result):
    return [f"Its largest error on a test image was {result['evaluation']['largest']:.3g}."]


registry.register(Number())
cards.tasks.TASKS[Number.name] = replace(
    cards.tasks.TASKS["image-classification"],
    title="Image brightness",
    metrics={"mae": ("mae", "Mean absolute error")},
    parts=__name__,
)

if __name__ == "__main__":
    from finetune.cli import main

    sys.exit(main())
