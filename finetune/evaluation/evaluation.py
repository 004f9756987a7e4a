"""What an evaluation found, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.console import is_main_process, log
from finetune.evaluation import calibration
from finetune.evaluation.intervals import wilson
from finetune.evaluation.metrics import NAMES
from finetune.evaluation.published import Published

SHARES = ("accuracy", "top5_accuracy")


@dataclass(frozen=True)
class Evaluation:
    """Numbers of one split.

    Attributes:
        subject: What was evaluated, on what and how: JSON values.
        images: How many were evaluated.
        metrics: Computed now.
        recorded: Those of the run's result.json, if a run was evaluated on its own validation or test split.
        published: What was published for the same weights and images, if anything.
        bootstrapped: Intervals of a run's scores, as its result.json has them.
        majority_class: `class` and `accuracy` of always answering the most frequent training class, where it is known.
        calibration: `temperature` of the model's config.json, `error` and `error_calibrated`, where there is one.
        titles: What people call the metrics.
        notes: What else a task says of the numbers, a line each.
        without_leaks: `images` of test that are in train too, and the `metrics` without them, where there are any.
    """

    subject: dict[str, Any]
    images: int
    metrics: dict[str, float]
    recorded: dict[str, float] = field(default_factory=dict)
    published: Published | None = None
    bootstrapped: dict[str, tuple[float, float]] = field(default_factory=dict)
    majority_class: dict[str, Any] | None = None
    calibration: dict[str, float] | None = None
    titles: Mapping[str, str] = field(default_factory=lambda: NAMES)
    notes: Sequence[str] = ()
    without_leaks: dict[str, Any] | None = None

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% intervals: Wilson's of the metrics that are shares of images, and those that were bootstrapped."""
        wilsons = {name: wilson(self.metrics[name], self.images) for name in SHARES if name in self.metrics}
        return wilsons | self.bootstrapped

    @property
    def outside(self) -> list[str]:
        """Metrics whose published value lies outside the interval."""
        known = self.published.metrics if self.published else {}
        return [
            name for name, (low, high) in self.intervals.items() if name in known and not low <= known[name] <= high
        ]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        found = self.published
        return {
            **self.subject,
            "images": self.images,
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "published": found and {"benchmark": found.benchmark, "source": found.source, "metrics": found.metrics},
            "outside": self.outside,
            "majority_class": self.majority_class,
            "calibration": self.calibration,
            **({"without_leaks": self.without_leaks} if self.without_leaks else {}),
        }


def report(evaluation: Evaluation, as_json: bool = False) -> None:
    """Print the numbers, in the first process only."""
    if not is_main_process():
        return
    if as_json:
        print(json.dumps(evaluation.to_json()))
        return
    for line in _table(evaluation):
        log.info(line)


def _table(evaluation: Evaluation) -> list[str]:
    """Metric, value, 95% interval, and what it was in result.json or what was published."""
    found = evaluation.published
    beside = evaluation.recorded or (found.metrics if found else {})
    title = "result.json" if evaluation.recorded else "published" if found else ""
    lines = ["", f"{evaluation.subject['split']:20}{'':>10}{'95 % interval':>24}{title:>14}".rstrip()]
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals.get(name, (None, None))
        interval = "" if low is None else f"[{low:.6f}, {high:.6f}]"
        other = f"{beside[name]:.6f}" if name in beside else ""
        lines.append(f"{evaluation.titles[name]:20}{value:>10.6f}{interval:>24}{other:>14}".rstrip())
    lines.append(f"{'images':20}{evaluation.images:>10}")
    if leaked := evaluation.without_leaks:
        scores = ", ".join(f"{evaluation.titles[name]} {value:.6f}" for name, value in leaked["metrics"].items())
        lines.append(f"without the {leaked['images']} images that training has, or near copies of: {scores}")
    if floor := evaluation.majority_class:
        lines.append(f"{'always one class':20}{floor['accuracy']:>10.6f}  ({floor['class']!r})")
    if found_there := evaluation.calibration:
        lines.append(calibration.line(*found_there.values()))
    lines += evaluation.notes
    if "protocol" in evaluation.subject:
        how = evaluation.subject["protocol"]
        crop = f"crop {how['crop_pct']:.4g}, {how['interpolation']}"
        lines.append(f"protocol {how['name']}: {how['image_size']} px, {crop}")
    if found:
        lines += _verdict(evaluation, found)
    return lines


def _verdict(evaluation: Evaluation, found: Published) -> list[str]:
    """Say plainly whether the published numbers lie within the intervals."""
    lines = []
    for name, value in found.metrics.items():
        difference = 100 * (evaluation.metrics[name] - value)
        place = "OUTSIDE" if name in evaluation.outside else "inside"
        lines.append(
            f"{evaluation.titles[name]}: {difference:+.3f} points "
            f"from the published {100 * value:.3f} % ({found.source}, "
            f"{found.benchmark}), which lies {place} the 95 % interval"
        )
    return lines
