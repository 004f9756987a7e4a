"""The settings of a run, checked and complete.

Config stops at the door: the model, the task and the data module take plain arguments. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from finetune.errors import ConfigError
from finetune.settings import checks
from finetune.settings import recipe as recipe_file
from finetune.settings.options import Options
from finetune.settings.presets import (
    EPOCHS_PER_WARMUP,
    FROZEN_PRESET,
    PRETRAINED_PRESET,
    SCRATCH_PRESET,
    SOLVED_PRESET,
    epochs_for,
)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """All settings of one run; `finetune.run` takes it.

    `dataset` may also be a `datasets.Dataset` or `datasets.DatasetDict` in memory.

    Attributes:
        inferred: Fields whose values come from a preset, after `resolved`: a task may have better ones.
    """

    inferred: ClassVar[frozenset[str]] = frozenset()  # no setting, hence no field

    def __post_init__(self) -> None:
        """Paths may be given as text."""
        for name in ("output", "resume"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))

    @classmethod
    def from_recipe(cls, recipe: str, *, model: str, **values: Any) -> RunConfig:
        """A published recipe's settings for a model, with `values` instead of the recipe's where given.

        Raises:
            ConfigError: No such recipe, or not for this model.
        """
        settings = recipe_file.settings(recipe, model, values.get("batch_size"))
        return cls(**{**settings, "model": model, **values})

    def resolved(self) -> RunConfig:
        """The same config, checked, with the preset's values where none was given.

        Raises:
            ConfigError: Every problem found, at once.
        """
        preset = PRETRAINED_PRESET if self.pretrained else SCRATCH_PRESET
        preset = FROZEN_PRESET if self.head_only else preset
        preset = SOLVED_PRESET if self.solved else preset
        settled = self.inferred - {"epochs", "warmup_epochs"}  # where a task's own value is None
        missing = {key: value for key, value in preset.items() if getattr(self, key) is None and key not in settled}
        if not self.pretrained:  # a frozen backbone of random weights
            missing |= {name: SCRATCH_PRESET[name] for name in ("head_init", "batch_norm") if name in missing}
        elif "head_init" in missing and self.unfreeze_every is not None and self.probed:
            missing["head_init"] = "probe"  # while the classifier trains alone, there is nothing better to start with
        if self.streaming and "epochs" in missing and missing["epochs"] is None:
            batch = self.batch_size or preset["batch_size"]
            missing["epochs"] = epochs_for((self.steps_per_epoch or 1) * batch, batch)
        epochs: int | None = missing.get("epochs", self.epochs)
        if "warmup_epochs" in missing:  # which waits for `for_images` where the epochs do
            share = None if epochs is None else max(0, epochs) / EPOCHS_PER_WARMUP
            missing["warmup_epochs"] = None if share is None else min(missing["warmup_epochs"], share)
        config = self.inferring(missing)
        problems = checks.problems(config)
        if problems:
            raise ConfigError("; ".join(problems))
        return config

    def inferring(self, values: Mapping[str, Any]) -> RunConfig:
        """The same with some values that nobody has given."""
        config = dataclasses.replace(self, **values)
        object.__setattr__(config, "inferred", self.inferred | values.keys())
        return config

    def for_images(self, images: int) -> RunConfig:
        """The same resolved config, with the epochs that suit so many training images where none were given.

        Raises:
            ConfigError: Something does not go with these epochs.
        """
        if self.epochs is not None or self.solved or self.batch_size is None:
            return self
        return self.inferring({"epochs": epochs_for(images, self.batch_size)}).resolved()
