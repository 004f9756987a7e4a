"""What a task brings: the one interface between what differs from task to task and everything else.

Protocols alone, and no torch at run time, for every wing speaks of them: `data/` of `Reading` and `Schema`, `loading/`
of `Inputs`, `training/` of `Learning`, `evaluation/` and `commands/` of `Judging`, `export/` of `Saving`, `serving/` of
`Answering`. A task implements them in its folder of `finetune/tasks/`, one object that is all of them; commands choose
it by `finetune.tasks.registry` and hand down the part that a wing needs. Nothing else asks which task it is.

What is named here without an import is spelled out where it lives: `settings` is a
`finetune.settings.config.RunConfig`, `data` a `finetune.data.dataset.LabelledImages`, `result` a
`finetune.runs.result.RunResult`, `folder` a `finetune.runs.runfolder.RunFolder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import lightning as L
    import torch
    from datasets import Dataset
    from PIL import Image
    from torch import nn

Record = dict[str, Any]
"""What `predict` says of one image, as JSON."""


@dataclass(frozen=True)
class Score:
    """One of the numbers that are reported of a model.

    Attributes:
        key: In result.json, and in metrics.csv behind `val_`.
        title: For people.
        higher: Whether a higher one is better.
        logged: Whether metrics.csv has it of every epoch.
    """

    key: str
    title: str
    higher: bool = True
    logged: bool = True


class Schema(Protocol):
    """What a dataset holds for a task, found in its features and then its values. Pure: it opens nothing.

    Targets are an array whose first axis is that of the rows; what an entry is, the task alone knows: a class index, a
    row of zeros and ones, a number. Of masks and boxes, which are read with the image, it is what splits are drawn by.
    """

    @property
    def task(self) -> str:
        """Name of the task, as result.json has it."""

    @property
    def image_column(self) -> str:
        """Column of the images."""

    @property
    def target_column(self) -> str:
        """Column of the targets."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that `read` needs: the target's, or several that are one target together."""

    @property
    def explains(self) -> tuple[str, ...]:
        """Columns that are part of this reading, and hence nobody's target: those, and the classes beside boxes."""

    @property
    def sure(self) -> bool:
        """Whether the dataset says so; False where a column was taken because there is no other."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the class indices; empty of a task without classes."""

    def described(self) -> str:
        """What was recognised, in the line that is printed: `images in column ..., 3 classes in column ...`."""

    def with_values(self, columns: Sequence[Sequence[Any]]) -> Schema:
        """The same, with what only the values of all splits tell; also another task's, where they tell that.

        Raises:
            SchemaError: They are nothing to learn from.
        """

    def declared(self, classes: str | None) -> Schema:
        """The same for a stream, whose values are not read to find out.

        Args:
            classes: What the flag `--classes` says.

        Raises:
            SchemaError: More, or less, has to be said; or the task has no streams.
        """

    def read(self, split: Dataset) -> Sequence[Any]:
        """What stands in a split for each row, as `with_values` and `encode` take it."""

    def check_split(self, name: str, features: Mapping[str, Any]) -> None:
        """Whether the columns of another split mean the same.

        Raises:
            SchemaError: It does not.
        """

    def check_stream(self, name: str, features: Mapping[str, Any]) -> None:
        """The same of a stream, after `declared`."""

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Targets of what `read` gave."""

    def labelled(self, targets: np.ndarray) -> np.ndarray:
        """Bool, which rows have a target."""

    def draw(self, targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `size` labelled ones, each stratum in its share; ascending."""

    def carve(self, targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
        """Bool, a stratified share of a split; `keep` rows of each stratum stay."""

    def check_sizes(self, targets: np.ndarray, carved: Sequence[str]) -> None:
        """Whether every stratum has enough rows for the splits to be carved.

        Raises:
            SplitError: It has not.
        """

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """int64 `[N]`: a small number for each row, by which a few rows are picked that differ."""

    def remarks(self, targets: np.ndarray) -> Iterator[str]:
        """What is odd about the training targets, a line each."""

    def facts(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What result.json's `dataset` has of them, by role of the splits."""


class Reading(Protocol):
    """For `data/`: which columns are the image and the target."""

    def recognise(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """What there is to learn.

        Raises:
            SeveralReadingsError: Several columns could be meant; the message says which flag chooses.
            SchemaError: Nothing of this task.
        """


class Inputs(Protocol):
    """For `loading/`: how an image and its target become a batch.

    Attributes:
        columns: Of the dataset, read beside the image's: the target is then their values by name, and not what stands
            in the splits.
    """

    columns: tuple[str, ...]

    def training(self, image: Image.Image, target: Any) -> tuple[torch.Tensor, Any]:
        """An image, perhaps not decoded yet, and its target, changed at random together; pixels are uint8."""

    def evaluation(self, image: Image.Image, target: Any) -> tuple[torch.Tensor, Any]:
        """A decoded image and its target, as the exported model sees them."""

    def collate(self, targets: Sequence[Any]) -> Any:
        """The targets of a batch; lists where they are ragged."""


class Baseline(Protocol):
    """For `training/`: what the training has to beat, as an epoch before the first. It is a callback as well.

    Attributes:
        entries: What of the module's state dict would be the baseline's.
    """

    entries: dict[str, torch.Tensor]

    @property
    def scores(self) -> dict[str, dict[str, float]] | None:
        """By `validation` and `test`; None where there is none."""


class Collector(Protocol):
    """For `training/`: a callback that keeps what the last validation or test predicted, in the first process.

    Attributes:
        last: A dataclass. Where its fields are all tensors, it is saved, and figures can be drawn from it again.
        kind: Makes such a dataclass of its fields, by name.
    """

    last: Any
    kind: Callable[..., Any]


@dataclass(frozen=True)
class Learner:
    """What trains, and what on.

    Attributes:
        module: A `finetune.training.module.TaskModule`.
        loader: A data module with `epoch_images` and `micro_batches`.
    """

    module: Any
    loader: Any


class Learning(Protocol):
    """For `networks/` and `training/`."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """In the order of the tables."""

    @property
    def ranking(self) -> tuple[Score, ...]:
        """Those that choose the best epoch, the first before the others."""

    def preset(self, settings: Any) -> Mapping[str, Any]:
        """The task's own values of settings, where the user gives none; None and 0 are values."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Fields of the settings that the task has no use for, and why: `has no classes to smooth over`."""

    @property
    def heavy_head(self) -> bool:
        """Whether what stands on the backbone does much of the work, as decoders and detectors do."""

    def network(self, settings: Any, schema: Schema, pretrained: bool) -> nn.Module:
        """The model with the right head; raises before a training whose result could not be exported."""

    def data_module(self, data: Any, data_config: Mapping[str, Any], **options: Any) -> Any:
        """Rows, or a stream, ready for the Trainer."""

    def baseline(self, settings: Any) -> Any:
        """A callback that is a `Baseline`; one that never has scores where the task has none."""

    def learner(self, settings: Any, images: Any, network: nn.Module, baseline: Any) -> Learner:
        """What trains on what, and what `baseline` is fitted to."""

    def identity(self, settings: Any, network: nn.Module) -> dict[str, Any]:
        """What must be the same, besides data and settings, where a run goes on from a checkpoint."""

    def collector(self) -> Any:
        """A callback that is a `Collector`."""


class Judging(Protocol):
    """For `evaluation/`: from what was predicted to how good and how sure."""

    def evaluator(self, network: nn.Module, outputs: int) -> L.LightningModule:
        """What tests a finished model."""

    def assess(self, result: Any, predictions: Mapping[str, Any], data: Any, baseline: Any) -> Any:
        """The result with its `evaluation`."""

    def draw(self, result: Any, predictions: Any, data: Any, folder: Any) -> Any:
        """The figures of the test split, and the result that names them."""

    def aligned(self, data: Any, network: nn.Module) -> tuple[Any, int, dict[str, Any]]:
        """A dataset as a model that was not trained on it sees it: with its outputs as targets.

        Returns:
            The dataset, the number of outputs, and what the evaluation says of how they belong together.

        Raises:
            ModelError: They do not.
        """

    def floors(self, result: Any) -> Iterator[tuple[str, float, str, float]]:
        """Rows of the table that ends a run, below the scores: title, test, its interval, validation."""

    def remarks(self, result: Any) -> Iterator[str]:
        """What the numbers of that table rest on, a line each."""

    def resampler(self, found: Any) -> Callable[[np.ndarray], np.ndarray]:
        """The first of the scores where images count otherwise.

        Args:
            found: What the collector keeps of N images.

        Returns:
            A function of how often each image counts, int64 `[R, N]`, to the score of each of R cases, float64 `[R]`.
        """

    def reassess(self, found: Any, result: Any, model: Path) -> dict[str, Any]:
        """What `evaluate RUN` says besides the scores, as `finetune.evaluation.evaluation.Evaluation` takes it."""


class Saving(Protocol):
    """For `export/`: how `model/` is written, and what its certificate is made from."""

    def save(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any], result: Any) -> None:
        """Write model/; the folder appears whole or not at all."""

    def load(self, folder: Path) -> nn.Module:
        """The network in model/, with its weights."""

    def file_metadata(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """What a user of an exported file must know besides the preprocessing: text by name, lists as JSON."""

    def witness(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any]) -> None:
        """Write RUN/verify: some test images, and what the live model says of them."""


class Answers(Protocol):
    """A model that answers.

    Attributes:
        transform: PIL RGB -> float32 `[3, H, W]`, the evaluation's; or anything else, with a `collate` for a batch.
    """

    transform: Any

    @property
    def says(self) -> Sequence[str]:
        """One line on the model, and further ones on what to know of its answers."""

    def records(self, pixels: Any, options: Any) -> list[Record]:
        """What `predict` says of prepared images `[B, 3, H, W]`, or what `transform.collate` makes, under its flags.

        A task whose answers are files has `keep(name, record) -> record` as well, which writes an image's: `name` is
        what the image is called, and `--output` is then a folder. A task that has `--format coco` has `coco(records)`,
        which makes one JSON document of all named records.
        """

    def brief(self, record: Record) -> str:
        """A record in short, for a terminal."""

    def columns(self, options: Any) -> Sequence[str]:
        """Those of `--format csv`."""

    def flat(self, record: Record) -> Record:
        """A record by these columns."""


class Answering(Protocol):
    """For `serving/`."""

    def answers(self, model: str | Path, options: Any, images: int | None) -> Answers:
        """Load a model for `predict`.

        Args:
            model: A run's or model's folder, a name, or an exported file.
            options: Of the verb.
            images: How many there will be, where that is known.
        """

    def page(self, model: str | Path, accelerator: str, uploads: Path) -> Any:
        """The page of `demo`, a `gradio.Blocks`; `uploads` is the folder that Gradio keeps images in."""


class Task(Reading, Learning, Judging, Saving, Answering, Protocol):
    """All that a task brings.

    Attributes:
        name: As result.json and `--task` have it.
    """

    name: str
