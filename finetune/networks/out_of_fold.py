"""What a linear probe says of images that it was not fitted to, for all images: each fold by a probe of the others."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.networks.linear_probe import STRENGTHS, folds
from finetune.networks.logistic_regression import Regression

FOLDS = 5


def probabilities(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0, count: int = FOLDS
) -> np.ndarray:
    """float64 `[N, K]`: probabilities of the classes by a probe that has not seen the image.

    One strength for all folds, that of the lowest cross-entropy on what was held out.

    Args:
        features: float32 `[N, D]`, finite.
        labels: int64 `[N]`; at least two classes.
        num_classes: K. Of a class without images the probability is 0.
        seed: Of the folds.
        count: How many folds.

    Raises:
        ValueError: All images are of one class.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("expected images of at least two classes, got those of one")
    targets = torch.from_numpy(np.searchsorted(present, labels))
    regression = Regression(torch.from_numpy(np.array(features)).double(), len(present), None)
    numbers = torch.from_numpy(folds(labels, count, seed))
    inputs, starts = regression.inputs.float(), dict[int, Tensor]()
    best, least = torch.zeros(len(labels), len(present)), float("inf")
    for strength in STRENGTHS:
        logits = torch.zeros(len(labels), len(present))
        for fold in range(count):
            rest, held = numbers != fold, numbers == fold
            solution = regression.solve(inputs[rest], targets[rest], strength, starts.get(fold))
            starts[fold] = solution
            logits[held] = F.linear(inputs[held], solution[:, :-1], solution[:, -1])
        loss = float(F.cross_entropy(logits, targets))
        if loss > least:  # more freedom will not help either
            break
        best, least = logits, loss
    made = np.zeros((len(labels), num_classes))
    made[:, present] = best.double().softmax(dim=1).numpy()
    return made
