"""Classes on frozen features: the linear probe, nearest neighbours, and which labels are probably wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from finetune.evaluation import intervals
from finetune.evaluation.metrics import ClassificationScores
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.study import confident_learning
from finetune.networks import neighbours, out_of_fold
from finetune.study import Bar, Suspect
from finetune.task import Schema
from finetune.tasks.classification.probe import ClassProbing

ROUNDS = 3
"""Divisions into folds that the probabilities are an average over."""


class ClassStudy:
    """`finetune.study.Studying` of one class an image."""

    def bars(
        self, features: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], schema: Schema, seed: int
    ) -> Iterator[Bar]:
        """Multinomial logistic regression, which is epoch 0 of a training, and a vote of neighbours.

        Raises:
            ValueError: As `finetune.networks.linear_probe.fit`.
        """
        outputs = len(schema.classes)
        counts = np.bincount(targets["train"], minlength=outputs).tolist()
        found = ClassProbing(counts).fit(features, targets, outputs, seed, torch.device("cpu"))
        said = f"{found.probe.images} training images, C {found.probe.strength:.3g} by {found.probe.chosen_by}"
        yield _bar("linear probe", found.predictions, said, seed)
        voting = neighbours.fit(features["train"], targets["train"], outputs)
        predictions = {
            role: Predictions(voting.logits(features[role]), torch.from_numpy(targets[role].astype(np.int64)))
            for role in ("validation", "test")
        }
        yield _bar("nearest neighbours", predictions, f"{voting.count} of them vote", seed)

    def suspects(self, features: np.ndarray, targets: np.ndarray, schema: Schema, seed: int) -> list[Suspect]:
        """By confident learning on out-of-fold probabilities of the probe.

        Raises:
            ValueError: All images are of one class.
        """
        labels = targets.astype(np.int64)
        rounds = [
            out_of_fold.probabilities(features, labels, len(schema.classes), seed + number) for number in range(ROUNDS)
        ]
        found = confident_learning.find(labels, np.mean(rounds, axis=0))
        return [
            Suspect(
                int(place),
                float(found.margin[place]),
                schema.classes[labels[place]],
                schema.classes[found.suggested[place]],
                bool(found.likely[place]),
            )
            for place in found.order
        ]

    def named(self, schema: Schema, target: Any) -> str:
        """The class."""
        return schema.classes[int(target)]

    def without(self, predictions: Any, kept: np.ndarray) -> Mapping[str, float]:
        """Scores of `finetune.evaluation.metrics`."""
        keep = torch.from_numpy(kept)
        return _scores(Predictions(predictions.logits[keep], predictions.targets[keep]))


def _bar(title: str, predictions: Mapping[str, Predictions], said: str, seed: int) -> Bar:
    test = predictions["test"]
    ends = intervals.bootstrap(test.pairs(), test.num_classes, seed).ends
    scores = {role: _scores(of) for role, of in predictions.items()}
    return Bar(title, scores, ends, test.correct.double().numpy(), said)


def _scores(predictions: Predictions) -> dict[str, float]:
    metric = ClassificationScores(predictions.num_classes, sync_on_compute=False)
    metric.update(predictions.logits, predictions.targets)
    return {name: value.item() for name, value in metric.compute().items()}
