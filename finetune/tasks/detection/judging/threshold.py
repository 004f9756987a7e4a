"""From which score on a found object is shown, and how often a score is right; both fitted on validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error

from finetune.evaluation.calibration import BINS, COLDEST, HOTTEST
from finetune.tasks.detection.judging.matches import Matches

_EDGE = 1e-6
"""Scores are kept so far from 0 and 1: their logits are finite."""


def best(matches: Matches) -> float:
    """The score from which on the found objects have the highest F1 at overlap 0.5; 0.5 where none is right.

    All classes together. Between the last score that is in and the first one that is out, the middle.
    """
    counted = ~matches.ignored[:, 0]
    order = np.argsort(-matches.score[counted], kind="stable")
    score, true = matches.score[counted][order], matches.true[counted, 0][order]
    if not true.any():
        return 0.5
    f1 = 2 * np.cumsum(true) / (np.arange(1, len(true) + 1) + matches.wanted.sum())
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of equal scores all are in
    place = last[int(f1[last].argmax())]
    following = score[place + 1] if place + 1 < len(score) else 0.0
    return float((score[place] + following) / 2)


def at_threshold(matches: Matches, threshold: float, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class at overlap 0.5; null where there is nothing to divide by."""
    shown = (matches.score >= threshold) & ~matches.ignored[:, 0]
    rows = []
    for label, name in enumerate(classes):
        of_class = shown & (matches.label == label)
        right, said = int(matches.true[of_class, 0].sum()), int(of_class.sum())
        there = int(matches.wanted[:, label].sum())
        rows.append(
            {
                "class": name,
                "precision": right / said if said else None,
                "recall": right / there if there else None,
                "f1": 2 * right / (said + there) if said + there else None,
                "support": there,
                "predicted": said,
            }
        )
    return rows


def calibrated(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities that found objects are true at overlap 0.5, float64, of their scores."""
    kept = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    result: np.ndarray = 1 / (1 + np.exp(-np.log(kept / (1 - kept)) / temperature))
    return result


def fit_temperature(matches: Matches) -> float | None:
    """The temperature of the scores' logits at which what is true of validation is most likely.

    The likelihood has one maximum in 1 / temperature; it is found by bisection of its slope.

    Returns:
        None where all or none of the found objects are true: nothing says how sure is too sure.

    Source: Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, of two classes.
    """
    counted = ~matches.ignored[:, 0]
    scores = np.clip(matches.score[counted], _EDGE, 1 - _EDGE)
    true = matches.true[counted, 0]
    if not true.any() or true.all():
        return None
    logits = np.log(scores / (1 - scores))
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        slope = (logits * (true - 1 / (1 + np.exp(-middle * logits)))).sum()  # of the log likelihood
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(2 / (low + high))


def error(matches: Matches, temperature: float = 1.0) -> float:
    """Expected calibration error of the scores of a split, over `BINS` bins."""
    counted = ~matches.ignored[:, 0]
    said = torch.from_numpy(calibrated(matches.score[counted], temperature))
    true = torch.from_numpy(matches.true[counted, 0].astype(np.int64))
    return float(binary_calibration_error(said, true, n_bins=BINS)) if len(said) else 0.0
