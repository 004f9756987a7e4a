"""The table of transfer.py: accuracies, paired differences with intervals, and seconds to a peer's accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from transfer_results import Run

RESAMPLES = 10_000
OURS = "ours"
HEADER = (
    *("row", "accuracy", "of each run", "ours - row, points", "95 %, runs", "95 %, images"),
    *("seconds", "ours as good in", "of its time"),
)


def over_runs(differences: Sequence[float]) -> tuple[float, float]:
    """Student's interval, 95 %, of a mean of paired differences.

    Args:
        differences: At least two, taken as independent.

    Returns:
        Its ends.
    """
    from scipy.stats import t as student  # an extra, whose absence transfer.py says in a line

    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    middle = statistics.fmean(differences)
    return middle - half, middle + half


def over_images(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap over images, 95 %, of a mean difference.

    Args:
        differences: Of ours and a peer, right counted 1 and wrong 0, the mean over the runs, float `[N]`.
        seed: Of the resamples.

    Returns:
        Its ends.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    rng = np.random.default_rng(seed)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pairs(ours: Sequence[Run], peer: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs on the same subset with the same seed; one without a seed goes with all of its subset."""
    cells = [(run.request.subset, run.request.seed) for run in peer]
    return [
        (run, other)
        for run in ours
        for other, (subset, seed) in zip(peer, cells, strict=True)
        if run.request.subset == subset and (run.request.seed == seed or None in (run.request.seed, seed))
    ]


def right(run: Run) -> np.ndarray:
    """For each image, float `[N]`: 1 where it was right."""
    return np.frombuffer(run.correct.encode(), dtype=np.uint8) - float(ord("0"))


def fastest(rows: dict[str, list[Run]], peer: Sequence[Run]) -> tuple[str, float, float] | None:
    """The fastest of our rows that is as accurate as a peer, by the means over the runs that both have.

    Returns:
        Its name, its median seconds, and these over the peer's; None where no row of ours is.
    """
    found = []
    for name, ours in rows.items():
        both = pairs(ours, peer) if name.startswith(OURS) else []
        # As many thousandths of a point as floats are off do not count.
        if both and sum(a.accuracy - b.accuracy for a, b in both) >= -1e-9:
            seconds, theirs = (statistics.median(run.seconds for run in column) for column in zip(*both, strict=True))
            found.append((name, seconds, seconds / theirs))
    return min(found, key=lambda entry: entry[2], default=None)


def row(name: str, rows: dict[str, list[Run]], note: str = "") -> list[str]:
    """The cells of a row."""
    runs = rows[name]
    cells = [f"{name}{note}", f"{statistics.fmean(run.accuracy for run in runs):.3f}"]
    cells.append(", ".join(f"{run.accuracy:.3f}" for run in runs))
    cells += compared(rows.get(OURS, []), runs) if name != OURS else [""] * 3
    cells.append(f"{statistics.median(run.seconds for run in runs):.1f}")
    best = None if name.startswith(OURS) else fastest(rows, runs)
    return cells + ([f"{best[1]:.1f} ({best[0]})", f"{best[2]:.2f}"] if best else [""] * 2)


def compared(ours: Sequence[Run], peer: Sequence[Run]) -> list[str]:
    """Mean difference in points, and its two intervals."""
    both = pairs(ours, peer)
    if not both:
        return [""] * 3
    differences = [100 * (a.accuracy - b.accuracy) for a, b in both]
    images = 100 * np.mean([right(a) - right(b) for a, b in both], axis=0)
    runs = ends(over_runs(differences)) if len(both) > 1 else ""
    return [f"{statistics.fmean(differences):+.1f}", runs, ends(over_images(images))]


def ends(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.1f} to {interval[1]:+.1f}"


def first_epoch(runs: Sequence[Run]) -> list[str]:
    """The row of the linear probe that ours has computed itself; none where it has not."""
    found = [run.facts["probe"] for run in runs if run.facts.get("probe") is not None]
    if not found:
        return []
    cells = ["ours: probe (epoch 0)", f"{statistics.fmean(found):.3f}", ", ".join(f"{value:.3f}" for value in found)]
    gained = [100 * (run.accuracy - run.facts["probe"]) for run in runs if run.facts.get("probe") is not None]
    runs_interval = ends(over_runs(gained)) if len(gained) > 1 else ""
    return [*cells, f"{statistics.fmean(gained):+.1f}", runs_interval, "", "", "", ""]


def table(rows: dict[str, list[Run]], notes: dict[str, str]) -> str:
    """Markdown, numbers to the right.

    Args:
        rows: Runs by row, in the order in which they are printed.
        notes: By row, what stands behind its name.
    """
    lines: list[list[Any]] = [row(name, rows, notes.get(name, "")) for name in rows]
    ours = first_epoch(rows.get(OURS, []))
    lines[1:1] = [ours] if ours else []
    rule = ["---", "---:", "---", *["---:"] * (len(HEADER) - 3)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [list(HEADER), rule, *lines])
