"""What `compare` found, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.serving import sheet
from finetune.serving.html import escape

_SIDES = {"only_model": "Only {model} is right", "only_reference": "Only {reference} is right"}
_AHEAD = {"ahead_model": "{model} is ahead", "ahead_reference": "{reference} is ahead"}


def page(found: Mapping[str, Any], pictures: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """One HTML file.

    Args:
        found: As `compare --json` prints it.
        pictures: Of each comparison, by side, entries of `image`, `file`, `class`, `reference` and `model` (what each
            said), and `scores` of both where an image has one that is no yes or no.
    """
    parts = [
        sheet.paragraph(
            f"{found['images']} images of {found['dataset']}, {found['split']}. {found['method']}.", "quiet"
        )
    ]
    for comparison, shown in zip(found["comparisons"], pictures, strict=True):
        parts += _comparison(found, comparison, shown)
    parts += [sheet.paragraph(line, "quiet") for line in found["remarks"]]
    return sheet.document("Which model is better?", parts)


def _comparison(found: Mapping[str, Any], comparison: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    names = {"model": comparison["model"], "reference": found["reference"]}
    scores = {model["name"]: model["scores"] for model in found["models"]}
    rows = [
        (
            of["title"],
            *(f"{scores[names[side]][key]:.4f}" for side in ("reference", "model")),
            *_difference(of),
            of["verdict"],
        )
        for key, of in comparison["metrics"].items()
    ]
    first = next(iter(comparison["metrics"].values()))
    low, high = first["interval"]
    verdict = (
        f"{first['title']} {first['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}: {first['verdict']}."
    )
    parts = [f"<h2>{escape(names['model'])} against {escape(names['reference'])}</h2>"]
    parts.append(sheet.paragraph(verdict))
    parts.append(sheet.table(("score", "reference", "model", "difference", "95 % interval", ""), rows))
    if test := comparison.get("mcnemar"):
        parts.append(sheet.paragraph(f"McNemar's exact test: p = {test['p']:.3g}."))
    if comparison["per_class"]:
        classes = [
            (row["class"], str(row["images"]), *_difference(row), f"{row['p_holm']:.3g}", row["verdict"])
            for row in comparison["per_class"]
        ]
        parts += [
            "<h3>Classes</h3>",
            sheet.table(("class", "images", "difference", "interval", "p (Holm)", ""), classes),
        ]
    for side, title in _SIDES.items():
        if side in comparison:
            parts.append(f"<h3>{escape(title.format(**names))}: {len(comparison[side])} images</h3>")
            parts.append(sheet.pictures([(one["image"], _caption(one)) for one in shown.get(side, ())]))
    return [*parts, *_ahead(comparison, names, shown, found["images"])]


def _ahead(comparison: Mapping[str, Any], names: Mapping[str, str], shown: Mapping[str, Any], images: int) -> list[str]:
    """The furthest first, of a score of each image."""
    if "images" not in comparison:
        return []
    of, parts = comparison["images"], []
    for side, title in _AHEAD.items():
        parts.append(f"<h3>{escape(title.format(**names))}: {of[side]} of {images} images</h3>")
        if shown.get(side):
            parts.append(
                sheet.paragraph(
                    f"By {of['title']}, which stands before what was said; the largest differences first.", "quiet"
                )
            )
            parts.append(sheet.pictures([(one["image"], _caption(one)) for one in shown[side]]))
    return parts


def _difference(of: Mapping[str, Any]) -> tuple[str, str]:
    low, high = of["interval"]
    return f"{of['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}"


def _caption(one: Mapping[str, Any]) -> list[str]:
    scores = {side: f" {value:.4g}" for side, value in one.get("scores", {}).items()}
    said = [f"{side}{scores.get(side, '')}: {one[side]}" for side in ("reference", "model")]
    return [f"true: {one['class']}", *said, str(one["file"])]
