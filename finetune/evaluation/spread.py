"""Several seeds' numbers: mean and standard deviation, which one is exported, and how that is said."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Scores = dict[str, float]
"""Of one split: `accuracy`, `loss`, ..."""

AVERAGE = "average"
"""`evaluation.seeds.exported`, where it is no seed."""
AVERAGED = "averaged over seeds"
"""`model.weights` there."""
BY_ACCURACY, BY_LOSS = "validation accuracy, then loss", "validation loss"
BETTER_THAN_EACH = "better on validation than each seed"
BETTER_THAN_MEAN = "validation loss and accuracy better than the seeds' mean: too few images to tell seeds apart"


def choose(seeds: Sequence[Scores], average: Scores, enough: bool) -> tuple[int | None, str]:
    """What is exported.

    With enough images: what is best by accuracy, then loss; of equals a seed before the average, and the first seed.
    Few images cannot tell which seed is the best. There the average of the weights stands against the mean of the
    seeds, which no choice has flattered; where it fails, as that of weights far from each other does, it is the seed
    with the lowest loss, which says more per image than the accuracy. The accuracy must hold as well: what has learnt
    nothing is not sure of anything, and may have a lower loss than what is too sure.

    Args:
        seeds: Each seed's scores on validation.
        average: Those of the average of their weights.
        enough: Whether there are enough validation images to tell seeds apart.

    Returns:
        Place in `seeds`, or None for the average; and the rule that decided, for people.
    """
    if enough:
        ranks = [(scores["accuracy"], -scores["loss"]) for scores in seeds]
        best = max(ranks)
        if (average["accuracy"], -average["loss"]) > best:
            return None, BETTER_THAN_EACH
        return ranks.index(best), BY_ACCURACY
    losses = [scores["loss"] for scores in seeds]
    accuracy = statistics.mean([scores["accuracy"] for scores in seeds])
    if average["loss"] < statistics.mean(losses) and average["accuracy"] >= accuracy:
        return None, BETTER_THAN_MEAN
    return losses.index(min(losses)), BY_LOSS


def summary(
    each: Sequence[dict[str, Any]], average: dict[str, Scores], exported: int | str, chosen_by: str
) -> dict[str, Any]:
    """`evaluation.seeds` of result.json.

    Args:
        each: Of each seed `seed`, `validation` and `test` (scores), and what else is known of it.
        average: Scores of the average of their weights, by split; of `test` only where it is exported.
        exported: A seed, or `AVERAGE`.
        chosen_by: See `choose`.

    Returns:
        These, with `mean` and `sd` (of a sample: over n - 1) of every score.
    """
    entry: dict[str, Any] = {"exported": exported, "chosen_by": chosen_by, "each": list(each)}
    for name, of in (("mean", statistics.mean), ("sd", statistics.stdev)):
        entry[name] = {
            role: {key: of([one[role][key] for one in each]) for key in each[0][role]}
            for role in ("validation", "test")
        }
    return {**entry, AVERAGE: average}


def cell(found: dict[str, Any], metric: str) -> str:
    """A test score's mean and standard deviation over seeds, for the table."""
    return f"{found['mean']['test'][metric]:.4f} +- {found['sd']['test'][metric]:.4f}"


def line(found: dict[str, Any]) -> str:
    """One line on the seeds, for people."""
    each = ", ".join(f"{one['test']['accuracy']:.4f} ({one['seed']})" for one in found["each"])
    exported = found["exported"]
    what = "the average of their weights" if exported == AVERAGE else f"seed {exported}"
    return (
        f"{len(found['each'])} seeds: mean +- standard deviation; test accuracy (seed) {each}; exported: {what} "
        f"({found['chosen_by']})"
    )
