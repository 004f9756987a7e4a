"""Flags of the verbs that say how far a model and its numbers can be trusted; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from finetune.errors import ConfigError
from finetune.settings import durations
from finetune.settings.options import AUTO, INFERRED, NONE, Options
from finetune.settings.verbs import output_problems

_MODELS = tyro.conf.arg(metavar="RUN|MODEL ...")
_OWN_TEST = tyro.conf.arg(metavar="NAME|PATH", help_behavior_hint="(default: the runs' own test images)")
_BUDGET = tyro.conf.arg(metavar="DURATION", help_behavior_hint="(default: none)")
_RUN = tyro.conf.arg(metavar="RUN")
_AGAIN = tyro.conf.arg(help_behavior_hint="(default: RUN-again beside it)")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Say which model is better on the same images: than the first, by how much, and how sure that is.

    Runs that differ in their seed alone count as one. Paired: McNemar's test, and an interval of the difference of each
    score. Runs whose test images differ are refused.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], _MODELS] = ()
    """Two or more run folders; with --dataset also models: timm names, hf-hub:OWNER/NAME or local-dir:PATH."""
    common: bool = False
    """Of runs whose test images differ, compare on those that are in the test split of all."""
    dataset: Annotated[str | None, _OWN_TEST] = None
    """Compare on a whole split of this dataset, as train takes it."""
    split: Annotated[str | None, NONE] = None
    """Split of --dataset: its test split, else its validation split, when not given."""
    dataset_config: Annotated[str | None, NONE] = None
    """Configuration of a Hub dataset that has several."""
    revision: Annotated[str | None, NONE] = None
    """Branch, tag or commit of a Hub dataset."""
    image_column: Annotated[str | None, INFERRED] = None
    """Column that holds the images."""
    target_column: Annotated[str | None, INFERRED] = None
    """Column that holds what there is to learn."""
    page: Annotated[Path | None, NONE] = None
    """HTML file to write, with the images that only one of two gets right."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, where predictions have to be made."""
    batch_size: int = 64
    """Images per batch there."""
    workers: Annotated[int | None, AUTO] = None
    """Processes that decode images there; chosen from the cores at hand."""
    json: bool = False
    """Print all as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = []
        if len(self.models) < 2:
            problems.append(f"expected two or more of RUN|MODEL, got {len(self.models)}: which shall be compared?")
        if self.dataset is None:
            names = ("split", "dataset_config", "revision", "image_column", "target_column")
            given = ", ".join("--" + name.replace("_", "-") for name in names if getattr(self, name) is not None)
            problems += [f"{given}: only with --dataset"] if given else []
        elif self.common:
            problems.append("--common is for the runs' own test images: leave it out with --dataset")
        if self.page is not None:
            problems += [text.replace("--output", "--page") for text in output_problems(Path(self.page))]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Say what has changed since a run was made, make it again, and say how near that comes.

    Compared with lock.json: packages, images and labels, weights that it begins with. The verdict is one of: bitwise
    the same, within the interval, or not reproduced (exit code 3).
    """

    run: Annotated[tyro.conf.Positional[Path], _RUN]
    """Folder of a finished run."""
    check_only: Annotated[bool, tyro.conf.arg(name="check")] = False
    """Only compare with lock.json; train nothing."""
    dataset: Annotated[str | None, NONE] = None
    """Where the dataset is now, if it has moved."""
    output: Annotated[Path | None, _AGAIN] = None
    """Folder of the new run."""
    accelerator: Annotated[str | None, NONE] = None
    """auto, cpu, gpu, mps; as the run had it when not given."""
    json: bool = False
    """Print all as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Two flags that exclude each other.
        """
        if self.check_only and self.output is not None:
            raise ConfigError("--check makes no run: leave out --output")


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """Search for better settings, on validation only; the flags of train say around what.

    Trial 0 is what these flags give: the preset. Others differ in learning rate, epochs, layer decay, image size and
    augmentation; those that fall behind are stopped. The best on validation, and it and the preset alone, are then
    tested, and compared. The same command with the same --output goes on.
    """

    trials: int = 20
    """How many to make, trial 0 and those of earlier calls included."""
    budget: Annotated[str | None, _BUDGET] = None
    """Begin no trial after so long, and stop the one in progress: 90m, 8h, 1d."""
    json: bool = False
    """Print all as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = []
        if self.trials < 1:
            problems.append(f"--trials must be at least 1, got {self.trials}")
        for name in ("resume", "publish", "streaming", "max_time"):
            if getattr(self, name):
                problems.append(f"--{name.replace('_', '-')} is not for sweep: leave it out")
        if self.seeds != 1:
            problems.append(f"--seeds {self.seeds}: a sweep trains each setting once; repeat its winner with --seeds")
        if self.curve:
            problems.append("--curve: a sweep trains each setting once, on all images; repeat its winner with --curve")
        if self.freeze != "none":
            problems.append(f"--freeze {self.freeze}: there is little to search for where the classifier alone trains")
        if self.devices not in ("auto", "1"):
            problems.append(f"--devices {self.devices}: a sweep runs on one device; give 1")
        if self.budget is not None:
            try:
                durations.seconds(self.budget)
            except ValueError as error:
                problems.append(f"--budget: {error}")
        if problems:
            raise ConfigError("; ".join(problems))


VERBS: dict[str, type] = {"compare": CompareOptions, "reproduce": ReproduceOptions, "sweep": SweepOptions}
"""Each verb's flags; it is in `finetune/commands/trust/VERB.py`, whose `write` takes them."""
