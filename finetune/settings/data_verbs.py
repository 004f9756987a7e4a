"""Flags of the verbs that look at a dataset before the training: doctor, probe, labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from finetune.errors import ConfigError
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.settings.options import AUTO, INFERRED, NONE, OWN
from finetune.settings.verbs import output_problems

_DATASET = tyro.conf.arg(help_behavior_hint="(required)", metavar="NAME|PATH")
_MODELS = tyro.conf.arg(help_behavior_hint="(required)", metavar="MODEL")
_MODEL = tyro.conf.arg(help_behavior_hint="(required)", metavar="MODEL")
_PAGE = tyro.conf.arg(help_behavior_hint="(default: VERB-DATASET.html, here)", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class DatasetFlags:
    """The dataset, as train reads it."""

    dataset: Annotated[str, _DATASET] = ""
    """Dataset as train takes it: Hub id, folder, parquet, tar, zip or csv file, digits."""
    dataset_config: Annotated[str | None, NONE] = None
    """Configuration of a Hub dataset that has several."""
    revision: Annotated[str | None, NONE] = None
    """Branch, tag or commit of a Hub dataset."""
    image_column: Annotated[str | None, INFERRED] = None
    """Column that holds the images."""
    target_column: Annotated[str | None, INFERRED] = None
    """Column that holds what is to be learnt."""
    task: Annotated[str | None, INFERRED] = None
    """What to read the dataset as, where it can be read in several ways."""
    train_split: Annotated[str | None, INFERRED] = None
    """Split to train on."""
    val_split: Annotated[str | None, INFERRED] = None
    """Split that the best epoch is chosen on."""
    test_split: Annotated[str | None, INFERRED] = None
    """Split that the reported numbers come from."""
    val_fraction: float = 0.1
    """Share of the training split to hold out where there is no validation split."""
    test_fraction: float = 0.1
    """Share of the training split to hold out where there is no test split."""
    group_column: Annotated[str | None, NONE] = None
    """Column of patients, scenes, videos: images of one group are held out together."""
    exclude: Annotated[Path | None, NONE] = None
    """File of rows to leave out, as doctor and labels write it."""
    max_samples: Annotated[int | None, NONE] = None
    """Use at most so many images of each split, drawn by class."""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Leave out images of more pixels before they are decoded."""
    seed: int = 0
    """Of the splits and of all that is drawn."""

    def prepared_by(self) -> dict[str, Any]:
        """Arguments of `finetune.data.dataset.prepare`, besides the dataset and the task."""
        names = [f.name for f in dataclasses.fields(DatasetFlags) if f.name not in ("dataset", "task")]
        return {name: getattr(self, name) for name in names}

    def problems(self) -> list[str]:
        """What is wrong with these flags, one sentence each."""
        found = [] if self.dataset else ["--dataset must be given, for instance --dataset photos/"]
        for name in ("val_fraction", "test_fraction"):
            if not 0 < (value := getattr(self, name)) <= 0.5:
                found.append(f"--{name.replace('_', '-')} must be above 0 and at most 0.5, got {value}")
        for name in ("max_samples", "max_image_pixels"):
            if (count := getattr(self, name)) is not None and count < 1:
                found.append(f"--{name.replace('_', '-')} must be at least 1, got {count}")
        return found


@dataclass(frozen=True, kw_only=True)
class FeatureFlags:
    """How features are computed."""

    image_size: Annotated[int | None, OWN] = None
    """Side of the square input in pixels."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, ..."""
    workers: Annotated[int | None, AUTO] = None
    """Processes that decode images; chosen from the cores at hand."""

    def feature_problems(self) -> list[str]:
        """What is wrong with these flags, one sentence each."""
        found = []
        for name, least in (("image_size", 1), ("workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                found.append(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        return found


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(FeatureFlags, DatasetFlags):
    """The bar that a finetune must beat: a linear classifier and nearest neighbours on frozen features, in seconds.

    Features are computed once and remembered. Several models make a table, to choose a backbone by.
    """

    model: Annotated[tuple[str, ...], _MODELS] = ()
    """One or several: timm names, hf-hub:OWNER/NAME, local-dir:PATH, or folders of runs."""
    curve: bool = False
    """Fit the linear probe to 10, 25, 50 and 100% of the training images too: would more labels help?"""
    json: bool = False
    """Print the numbers as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = [*self.problems(), *self.feature_problems()]
        if not self.model:
            problems.append("--model must be given, one or several: --model resnest14d resnest50d")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class LabelsOptions(FeatureFlags, DatasetFlags):
    """Likely label errors: images whose label a linear probe that has not seen them finds improbable, the worst first.

    Confident learning (Northcutt et al. 2021) on out-of-fold probabilities, over the images of all splits. Writes a
    page of thumbnails; --csv and --json have the whole list.
    """

    model: Annotated[str, _MODEL] = ""
    """timm name, hf-hub:OWNER/NAME, local-dir:PATH, or the folder of a run."""
    output: Annotated[Path | None, _PAGE] = None
    """Page to write."""
    csv: Annotated[Path | None, NONE] = None
    """Write the list there, for a spreadsheet."""
    fix: Annotated[Path | None, NONE] = None
    """Write the rows of the likely errors there, as --exclude of train takes them."""
    show: int = 100
    """Images on the page at most."""
    json: bool = False
    """Print the list as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = [*self.problems(), *self.feature_problems()]
        if not self.model:
            problems.append("--model must be given, for instance --model resnest50d")
        if self.show < 1:
            problems.append(f"--show must be at least 1, got {self.show}")
        for path in (self.output, self.csv, self.fix):
            problems += output_problems(path) if path else []
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(FeatureFlags, DatasetFlags):
    """Look at a dataset before any training: copies, leaks, contradictions, odd images, classes, groups.

    Exit code 3 where something serious was found. Writes a page of its own, with thumbnails.
    """

    model: Annotated[str | None, NONE] = None
    """With a model: its features find near copies that a look at the pixels misses; and advice on time and, on a
    GPU, memory."""
    output: Annotated[Path | None, _PAGE] = None
    """Page to write."""
    fix: Annotated[Path | None, NONE] = None
    """Write the rows that had better be left out, as --exclude of train takes them."""
    json: bool = False
    """Print what was found as JSON, and nothing else, on standard output."""

    def check(self) -> None:
        """Raise for what can be known to be wrong before anything is read.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = [*self.problems(), *self.feature_problems()]
        for path in (self.output, self.fix):
            problems += output_problems(path) if path else []
        if problems:
            raise ConfigError("; ".join(problems))


DATA_VERBS: dict[str, Any] = {"doctor": DoctorOptions, "probe": ProbeOptions, "labels": LabelsOptions}
"""Their flags, by verb."""
