"""Several seeds' numbers: mean and standard deviation, which one is exported, and how that is said."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from finetune.evaluation.metrics import RANKING
from finetune.task import Score

Scores = dict[str, float]
"""Of one split: `accuracy`, `loss`, ..."""

AVERAGE = "average"
"""`evaluation.seeds.exported`, where it is no seed."""
AVERAGED = "averaged over seeds"
"""`model.weights` there."""
BETTER_THAN_EACH = "better on validation than each seed"


def choose(
    seeds: Sequence[Scores], average: Scores, enough: bool, ranking: Sequence[Score] = RANKING
) -> tuple[int | None, str]:
    """What is exported.

    With enough images: what is best by the ranking (accuracy, then loss); of equals a seed before the average, and the
    first seed. Few images cannot tell which seed is the best. There the average of the weights stands against the mean
    of the seeds, which no choice has flattered; where it fails, as that of weights far from each other does, it is the
    seed that is best by the last of the ranking: the loss says more per image than the accuracy. The first must hold as
    well: what has learnt nothing is not sure of anything, and may have a lower loss than what is too sure.

    Args:
        seeds: Each seed's scores on validation.
        average: Those of the average of their weights.
        enough: Whether there are enough validation images to tell seeds apart.
        ranking: Scores that choose.

    Returns:
        Place in `seeds`, or None for the average; and the rule that decided, for people.
    """
    if enough:
        ranks = [[_worth(scores, of) for of in ranking] for scores in seeds]
        best = max(ranks)
        if [_worth(average, of) for of in ranking] > best:
            return None, BETTER_THAN_EACH
        return ranks.index(best), f"validation {', then '.join(of.title for of in ranking)}"
    first, last = ranking[0], ranking[-1]
    found = [_worth(scores, last) for scores in seeds]
    mean = statistics.mean([_worth(scores, first) for scores in seeds])
    if _worth(average, last) > statistics.mean(found) and _worth(average, first) >= mean:
        titles = " and ".join(dict.fromkeys((last.title, first.title)))
        return None, f"validation {titles} better than the seeds' mean: too few images to tell seeds apart"
    return found.index(max(found)), f"validation {last.title}"


def _worth(scores: Scores, of: Score) -> float:
    return scores[of.key] if of.higher else -scores[of.key]


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


def line(found: dict[str, Any], shown: Score = RANKING[0]) -> str:
    """One line on the seeds, for people."""
    each = ", ".join(f"{one['test'][shown.key]:.4f} ({one['seed']})" for one in found["each"])
    exported = found["exported"]
    what = "the average of their weights" if exported == AVERAGE else f"seed {exported}"
    return (
        f"{len(found['each'])} seeds: mean +- standard deviation; test {shown.title} (seed) {each}; exported: {what} "
        f"({found['chosen_by']})"
    )
