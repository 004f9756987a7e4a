"""Which labels are probably wrong, by what a classifier that has not seen the images says of them.

Confident learning: an image of given class i is counted as one of class j where the probability of j is at least the
mean that images of class j have, and j is the most probable such class. Where j is not i, the image counts as an error.
That says how many errors there are; which ones they are, the margin says better (`benchmarks/label_errors.py`): the
images of the lowest margins, so many, are the likely ones.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021),
equations 1 and 2; their code is cleanlab, whose `compute_confident_joint` gives the same (a test compares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confident:
    """What was found of N images.

    Attributes:
        margin: float64 `[N]`, probability of the given class less that of the most probable other; the lowest first is
            the ranking.
        suggested: int64 `[N]`, the most probable other class.
        off: Bool `[N]`, whether the image counts as one of another class than the given.
        joint: int64 `[K, K]`, images by given class and the class that they count as.
    """

    margin: np.ndarray
    suggested: np.ndarray
    off: np.ndarray
    joint: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """int64 `[N]`: the places of all images, the least credible label first."""
        return np.argsort(self.margin, kind="stable")

    @property
    def likely(self) -> np.ndarray:
        """Bool `[N]`: the least credible labels, as many as count as errors; none whose given class is the likelier."""
        found = np.zeros(len(self.margin), dtype=bool)
        found[self.order[: int(self.off.sum())]] = True
        return found & (self.margin < 0)


def find(labels: np.ndarray, probabilities: np.ndarray) -> Confident:
    """Judge the labels.

    Args:
        labels: int64 `[N]`, as given.
        probabilities: float64 `[N, K]`, of images that the classifier was not fitted to.

    Raises:
        ValueError: They do not belong together.
    """
    count, classes = probabilities.shape
    if len(labels) != count or (count and not 0 <= labels.min() <= labels.max() < classes):
        raise ValueError(f"expected labels of {count} images from 0 to {classes - 1}, got {len(labels)}")
    rows = np.arange(count)
    own = probabilities[rows, labels]
    sums = np.bincount(labels, weights=own, minlength=classes)
    images = np.bincount(labels, minlength=classes)
    thresholds = np.where(images > 0, sums / np.maximum(images, 1), np.inf)
    # Rounding must not part an image from a mean that it is equal to, as where all have one probability.
    confident = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    counted = confident.argmax(axis=1)
    sure = confident[rows, counted] >= 0
    joint = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(joint, (labels[sure], counted[sure]), 1)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(axis=1)
    return Confident(own - others[rows, suggested], suggested, sure & (counted != labels), joint)
