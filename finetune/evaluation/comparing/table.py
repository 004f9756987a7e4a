"""What `compare` found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.evaluation.comparing.compare import TIE
from finetune.task import Score


def lines(found: Mapping[str, Any], scores: Sequence[Score]) -> list[str]:
    """The table, line by line.

    Args:
        found: What `finetune.evaluation.comparing.compare.compare` gave, with `dataset`, `split` and `remarks`.
        scores: Of the task.
    """
    titles = {of.key: of.title for of in scores}
    said = ["", f"{found['images']} images of {found['dataset']}, {found['split']}"]
    width = max(len(model["name"]) for model in found["models"])
    for comparison in found["comparisons"]:
        values = {model["name"]: model["scores"] for model in found["models"]}
        said += ["", f"{comparison['model']} against {found['reference']}"]
        said.append(f"{'':20}{'reference':>11}{'model':>11}{'difference':>12}{'95 % interval':>22}")
        for key, of in comparison["metrics"].items():
            low, high = of["interval"]
            ends = f"[{low:+.4f}, {high:+.4f}]"
            pair = (values[name][key] for name in (found["reference"], comparison["model"]))
            numbers = "".join(f"{value:>11.4f}" for value in pair)
            said.append(f"{titles[key]:20}{numbers}{of['difference']:>+12.4f}{ends:>22}  {of['verdict']}")
        said += list(_in_words(comparison, found["reference"]))
    spread = [model for model in found["models"] if model["sd"]]
    for model in spread:
        each = ", ".join(f"{titles[key]} {sd:.4f}" for key, sd in model["sd"].items())
        said.append(f"{model['name']:{width}}  {model['seeds']} seeds, standard deviation: {each}")
    return [*said, "", found["method"], *found["remarks"]]


def _in_words(comparison: Mapping[str, Any], reference: str) -> Iterator[str]:
    first = next(iter(comparison["metrics"].values()))["verdict"]
    says = "a tie, no difference is shown" if first == TIE else f"{comparison['model']} is {first}"
    yield f"at 95 %: {says}"
    if test := comparison.get("mcnemar"):
        yield (
            f"only {comparison['model']} is right on {test['only_model']} images, only {reference} on "
            f"{test['only_reference']} (McNemar, exact: p = {test['p']:.3g})"
        )
    apart = [row for row in comparison["per_class"] if row["verdict"] != "tie"]
    for row in apart:
        yield f"class {row['class']!r}: {row['difference']:+.4f} on {row['images']} images, {row['verdict']}"
    if not apart and comparison["per_class"]:
        yield f"no class is shown to differ (Holm, {len(comparison['per_class'])} classes)"
