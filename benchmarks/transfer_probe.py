"""A row of transfer.py: scikit-learn's cross-validated logistic regression on a frozen network's features.

Knows nothing of ours. Started by transfer.py.
"""

from __future__ import annotations

import warnings

import datasets
import numpy as np
import timm
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from transfer_features import outputs
from transfer_job import Job, answer, read

STRENGTHS = np.logspace(-3, 2, 11)
"""Inverse strengths of the L2 penalty: half decades, closer than scikit-learn's own; the results have the best one."""


def fit(features: np.ndarray, labels: np.ndarray, seed: int) -> LogisticRegressionCV:
    """A regression whose strength is chosen by the likelihood in five folds; fewer where a class has fewer images.

    Args:
        features: float `[N, F]`.
        labels: int `[N]`.
        seed: Of the folds.

    Raises:
        ValueError: A class has a single image.
    """
    folds = int(min(5, np.bincount(labels)[np.unique(labels)].min()))
    if folds < 2:
        raise ValueError("expected two images of each class for cross-validation, got one: take more images")
    return LogisticRegressionCV(
        Cs=STRENGTHS,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        l1_ratios=(0.0,),
        scoring="neg_log_loss",
        max_iter=1000,
        use_legacy_attributes=False,
    ).fit(features, labels)


def main() -> None:
    job = Job.from_command_line()
    warnings.simplefilter("error", ConvergenceWarning)  # one that did not converge is no bar
    train, score = read(job.train), read(job.score)
    if job.with_validation:
        train = datasets.concatenate_datasets([train, read(job.validation)])
    model = timm.create_model(job.model, pretrained=True, num_classes=0)
    probe = fit(outputs(model, train, job.image_size), np.array(train["label"]), job.seed)
    # A class without a training image is never predicted.
    logits = np.full((len(score), score.features["label"].num_classes), -np.inf)
    logits[:, probe.classes_] = probe.predict_log_proba(outputs(model, score, job.image_size))
    answer(job, logits, score["label"][:], strength=float(probe.C_))


if __name__ == "__main__":
    main()
