"""What `compare` found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.evaluation.comparing.compare import TIE
from finetune.task import Score

NAMED = 3
"""Images of each side."""


def lines(found: Mapping[str, Any], scores: Sequence[Score]) -> list[str]:
    """The table, line by line.

    Args:
        found: What `finetune.evaluation.comparing.compare.compare` gave, with `dataset`, `split` and `remarks`, and
            single images with `row` and `file`, or their places alone.
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
        said += list(_in_words(comparison, found["reference"], found["images"]))
    spread = [model for model in found["models"] if model["sd"]]
    for model in spread:
        each = ", ".join(f"{titles[key]} {sd:.4f}" for key, sd in model["sd"].items())
        said.append(f"{model['name']:{width}}  {model['seeds']} seeds, standard deviation: {each}")
    return [*said, "", found["method"], *found["remarks"]]


def _in_words(comparison: Mapping[str, Any], reference: str, images: int) -> Iterator[str]:
    first = next(iter(comparison["metrics"].values()))["verdict"]
    says = "a tie, no difference is shown" if first == TIE else f"{comparison['model']} is {first}"
    yield f"at 95 %: {says}"
    if test := comparison.get("mcnemar"):
        yield (
            f"only {comparison['model']} is right on {test['only_model']} images, only {reference} on "
            f"{test['only_reference']} (McNemar, exact: p = {test['p']:.3g})"
        )
    yield from _images(comparison, reference, images)
    apart = [row for row in comparison["per_class"] if row["verdict"] != "tie"]
    for row in apart:
        yield f"class {row['class']!r}: {row['difference']:+.4f} on {row['images']} images, {row['verdict']}"
    if not apart and comparison["per_class"]:
        yield f"no class is shown to differ (Holm, {len(comparison['per_class'])} classes)"


def _images(comparison: Mapping[str, Any], reference: str, images: int) -> Iterator[str]:
    """Some of those that one is right on alone, or is the furthest ahead on."""
    names = {"model": comparison["model"], "reference": reference}
    for side, name in names.items():
        if only := comparison.get(f"only_{side}"):
            yield f"only {name} is right: {_listed([_where(one) for one in only[:NAMED]], len(only))}"
    if "images" not in comparison:
        return
    of = comparison["images"]
    for side, name in names.items():
        furthest = [
            f"{_where(one)} ({one[side]:.4g} against {one['reference' if side == 'model' else 'model']:.4g})"
            for one in comparison[f"ahead_{side}"][:NAMED]
        ]
        count = of[f"ahead_{side}"]
        listed = f": {_listed(furthest, count)}" if count else ""
        yield f"{of['title']}: {name} is ahead on {count} of {images} images{listed}"


def _where(one: int | Mapping[str, Any]) -> str:
    """An image by its file, or its row; by its place where the dataset is not at hand."""
    if isinstance(one, int):
        return f"test image {one}"
    if one.get("file"):
        return str(one["file"])
    return f"row {one['row']}" if "row" in one else f"test image {one['place']}"


def _listed(texts: Sequence[str], count: int) -> str:
    return ", ".join(texts) + (", ..." if count > len(texts) else "")
