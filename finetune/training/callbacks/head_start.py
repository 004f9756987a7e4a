"""Where the classifier starts, and the linear probe that the training has to beat: epoch 0."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from finetune.console import log
from finetune.errors import ModelError
from finetune.networks import head_start
from finetune.networks.feature_data import FeatureDataModule
from finetune.networks.linear_probe import Epoch0
from finetune.networks.probing import Probing


class HeadStart(L.Callback):
    """Fits a linear probe to the features of the training images, and lets the classifier start where it should.

    In `setup`, after the data module's and before other callbacks copy the model: all processes compute features, the
    first one solves, and all get its solution. A resumed run does the same, on features that are remembered; its
    checkpoint then brings the weights.

    Args:
        init: `zero`, `probe`, or anything else to leave the classifier as it is.
        kind: The task's own part; without it there is no probe.
        seed: Of the probe's folds.
        required: Whether a model without a probe is an error.

    Attributes:
        classifier: The layer to start; None where it is to be left alone.
        features: Of the images to fit and to score; None where there is to be no probe.
        epoch0: The probe; None before `setup`, and where there is none.
        predictions: The probe's of `validation` and `test`; in the first process alone.
        entries: What of the task's state dict would be the probe's.
    """

    def __init__(
        self,
        init: str = "timm",
        kind: Probing | None = None,
        seed: int = 0,
        required: bool = False,
    ) -> None:
        self.init, self.kind, self.seed, self.required = init, kind, seed, required
        self.classifier: nn.Linear | None = None
        self.features: FeatureDataModule | None = None
        self.epoch0: Epoch0 | None = None
        self.predictions: dict[str, Any] = {}
        self.entries: dict[str, Tensor] = {}

    @property
    def scores(self) -> dict[str, dict[str, float]] | None:
        """The probe's of `validation` and `test`; None where there is no probe."""
        return None if self.epoch0 is None else self.epoch0.scores

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Probes, and starts the classifier.

        Raises:
            ModelError: There must be a probe, and the model allows none.
        """
        if stage != "fit" or self.classifier is None or self.kind is None:
            return
        if self.features is not None and self.epoch0 is None:
            self.epoch0 = self._measure(trainer, self.features, self.classifier)
        if self.epoch0 is not None:
            self.entries = head_start.entries(pl_module, self.classifier, self.epoch0.probe)
            self._say(self.epoch0)
        if self.init == "probe" and self.epoch0 is not None:
            head_start.start_at_probe(self.classifier, self.epoch0.probe)
        elif self.init in ("probe", "zero"):
            self.kind.start_at_zero(self.classifier)

    def _measure(self, trainer: L.Trainer, features: FeatureDataModule, classifier: nn.Linear) -> Epoch0 | None:
        began = time.perf_counter()
        try:
            features.trainer = trainer
            features.setup("fit")
            if features.values["train"].ndim != 2:
                raise ModelError("a linear probe needs one vector of features an image, and this model has several")
        except ModelError as error:
            if self.required:
                raise
            log.info(f"no linear probe to compare with: {error}")
            return None
        made: Epoch0 | str | None = None
        if trainer.is_global_zero:
            try:
                made = self._fit(features, classifier.out_features, trainer.strategy.root_device, began)
            except ValueError as error:  # must not leave the other processes waiting
                made = str(error)
        made = trainer.strategy.broadcast(made)
        if isinstance(made, str):
            if self.required:
                raise ModelError(f"the classifier cannot be solved for: {made}")
            log.info(f"no linear probe to compare with: {made}")
            return None
        return made

    def _fit(self, features: FeatureDataModule, outputs: int, device: torch.device, began: float) -> Epoch0:
        assert self.kind is not None
        targets = {role: part.targets for role, part in features.data.splits.parts.items()}
        found = self.kind.fit(features.values, targets, outputs, self.seed, device)
        self.predictions = found.predictions
        return Epoch0(found.probe, found.scores, time.perf_counter() - began, found.said)

    def _say(self, found: Epoch0) -> None:
        log.info(
            f"epoch 0, a linear probe of {found.probe.images} training images: {found.said}, {found.seconds:.1f} s"
        )
