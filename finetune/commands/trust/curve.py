"""Would more labels help? The linear probe of parts of the training images, on features that are there already."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finetune.evaluation.study import learning_curve
from finetune.evaluation.study.learning_curve import DRAWS, FRACTIONS, Curve
from finetune.study import Studying
from finetune.task import Schema, Task


def of_probe(
    study: Studying,
    task: Task,
    features: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    schema: Schema,
    seed: int,
) -> Curve:
    """The curve of a task's first score.

    Args:
        study: Of the task.
        task: Says what the score is.
        features: By role, float32 `[N, D]`.
        targets: By role, `[N, ...]`.
        schema: Draws parts, each stratum in its share.
        seed: Of the draws.
    """
    score, count = task.scores[0], len(targets["train"])
    sizes: list[int] = []
    each: list[list[np.ndarray]] = []
    for fraction in FRACTIONS:
        size = round(fraction * count)
        draws = []
        for number in range(1 if fraction == 1 else DRAWS):
            rows = schema.draw(targets["train"], size, np.random.default_rng([seed, number]))
            part = {**features, "train": features["train"][rows]}
            try:
                bar = next(iter(study.bars(part, {**targets, "train": targets["train"][rows]}, schema, seed)))
            except ValueError:  # so few that all are of one class
                break
            draws.append(bar.each)
        if draws:
            sizes.append(size)
            each.append(draws)
    return learning_curve.fit(sizes, each, score.title, score.higher, seed)
