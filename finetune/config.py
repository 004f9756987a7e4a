"""The settings of a run, checked and complete.

Config stops at the door: the model, the task and the data module take plain arguments. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from finetune import option_checks, recipes
from finetune.errors import ConfigError
from finetune.options import Options
from finetune.presets import EPOCHS_PER_WARMUP, FROZEN_PRESET, PRETRAINED_PRESET, SCRATCH_PRESET, SOLVED_PRESET


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """All settings of one run; `finetune.run` takes it.

    `dataset` may also be a `datasets.Dataset` or `datasets.DatasetDict` in memory.
    """

    @classmethod
    def from_recipe(cls, recipe: str, *, model: str, **values: Any) -> RunConfig:
        """A published recipe's settings for a model, with `values` instead of the recipe's where given.

        Raises:
            ConfigError: No such recipe, or not for this model.
        """
        settings = recipes.settings(recipe, model, values.get("batch_size"))
        return cls(**{**settings, "model": model, **values})

    def resolved(self) -> RunConfig:
        """The same config, checked, with the preset's values where none was given.

        Raises:
            ConfigError: Every problem found, at once.
        """
        preset = PRETRAINED_PRESET if self.pretrained else SCRATCH_PRESET
        preset = FROZEN_PRESET if self.head_only else preset
        preset = SOLVED_PRESET if self.solved else preset
        missing = {key: value for key, value in preset.items() if getattr(self, key) is None}
        if not self.pretrained:  # a frozen backbone of random weights
            missing |= {name: SCRATCH_PRESET[name] for name in ("head_init", "batch_norm") if name in missing}
        if self.streaming and missing.get("head_init") == "probe":
            missing["head_init"] = "zero"  # a stream is not read before the training
        if "warmup_epochs" in missing:
            epochs: int = self.epochs or preset["epochs"]
            missing["warmup_epochs"] = min(missing["warmup_epochs"], max(0, epochs) / EPOCHS_PER_WARMUP)
        config = dataclasses.replace(self, **missing)
        problems = option_checks.problems(config)
        if problems:
            raise ConfigError("; ".join(problems))
        return config
