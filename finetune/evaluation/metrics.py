"""What is reported of a classifier, exact over any number of processes: only counts are added up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from finetune.task import Score

TOP_K = 5
SCORES = (
    Score("accuracy", "accuracy"),
    Score("top5_accuracy", "top-5 accuracy", logged=False),
    Score("macro_f1", "macro F1"),
    Score("balanced_accuracy", "balanced accuracy"),
    Score("loss", "loss", higher=False),
)
"""What is reported, in the order of the tables."""
RANKING = (SCORES[0], SCORES[-1])
"""What chooses the best epoch."""
NAMES = {score.key: score.title for score in SCORES}


class ClassificationScores(Metric):
    """Accuracy, top-5 accuracy, macro F1, balanced accuracy and mean cross-entropy.

    Definitions are scikit-learn's: macro F1 is the mean over classes that occur among targets or predictions, balanced
    accuracy the mean recall over classes that occur among the targets. Counts are integers and the loss is summed in
    float64, so that the result does not depend on how the images were spread over batches and processes.

    Args:
        num_classes: Number of classes.
        options: Of `torchmetrics.Metric`.
    """

    full_state_update = False
    correct: Tensor
    predicted: Tensor
    support: Tensor
    in_top_k: Tensor
    loss: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes = num_classes
        for name in ("correct", "predicted", "support"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("in_top_k", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: float32 logits `[B, num_classes]`, int64 targets `[B]`."""
        predictions = logits.argmax(dim=1)
        self.correct += torch.bincount(targets[predictions == targets], minlength=self.num_classes)
        self.predicted += torch.bincount(predictions, minlength=self.num_classes)
        self.support += torch.bincount(targets, minlength=self.num_classes)
        top = logits.topk(min(TOP_K, self.num_classes), dim=1).indices
        self.in_top_k += (top == targets[:, None]).sum()
        self.loss += torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum")

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars; `top5_accuracy` only where there are more than five classes."""
        correct, predicted, support = self.correct.double(), self.predicted.double(), self.support.double()
        total = support.sum()
        occurs = support + predicted > 0
        f1 = 2 * correct / (support + predicted).clamp(min=1)
        scores = {
            "accuracy": correct.sum() / total,
            "top5_accuracy": self.in_top_k.double() / total,
            "macro_f1": f1[occurs].mean(),
            "balanced_accuracy": (correct / support.clamp(min=1))[support > 0].mean(),
            "loss": self.loss / total,
        }
        return {name: value for name, value in scores.items() if name != "top5_accuracy" or self.num_classes > TOP_K}
