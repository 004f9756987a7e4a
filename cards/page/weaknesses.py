"""Where a model fails, as the page prints it: kinds of test images, and corrupted ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cards.page.text import escape, number

SHOWN = 10


def section(evaluation: Mapping[str, Any]) -> str | None:
    """Both parts as Markdown; None of a run that did not look.

    Args:
        evaluation: Of result.json.
    """
    parts = []
    if found := evaluation.get("slices"):
        parts += [*_slices(found)]
    if found := evaluation.get("robustness"):
        parts += [*_robustness(found)]
    return "\n\n".join(parts) or None


def _slices(found: Mapping[str, Any]) -> Iterator[str]:
    """Rows of those kinds of images that are shown to be worse than the rest."""
    each, images = found["each"], f"{found['images']:,}"
    yield "### Where it does worse"
    rows = [_row(row) for row in each if row["worse"]][:SHOWN]
    if rows:
        head = ("test images", escape(each[0]["title"]), "95 % interval", "on the rest", "images", "p")
        yield _table(head, "---|---:|:---:|---:|---:|---:", rows)
    else:
        yield "No kind of images is shown to be worse than the rest."
    yield (
        f"Of {found['tried']} kinds of images that were tried (size, shape, brightness, sharpness, class, looks, "
        f"further columns), on {images} test images; p is adjusted for all of them."
    )


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{escape(row['by'])}: {escape(row['slice'])}",
        number(row["score"]),
        f"{number(row['interval'][0])} to {number(row['interval'][1])}",
        number(row["rest"]),
        f"{row['images']:,}",
        number(row["p_adjusted"]),
    )


def _robustness(found: Mapping[str, Any]) -> Iterator[str]:
    """A row for each corruption, a column for each strength; rows alone where time was over."""
    scores = {(row["corruption"], row["strength"]): number(row["scores"][found["by"]]) for row in found["each"]}
    names = dict.fromkeys(name for name, _ in [*scores, *map(tuple, found["left_out"])])
    strengths = sorted({strength for _, strength in scores})
    yield "### Corrupted images"
    yield _table(
        (escape(found["title"]), *(f"strength {strength}" for strength in strengths)),
        "---|" + "|".join("---:" for _ in strengths),
        [(escape(name), *(scores.get((name, strength), "") for strength in strengths)) for name in names],
    )
    yield (
        f"On {found['images']:,} test images, which have {number(found['clean'][found['by']])} as they are; noise, "
        "blur and so on are those of ImageNet-C (Hendrycks and Dietterich)."
    )


def _table(head: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", f"|{sides}|", *("| " + " | ".join(row) + " |" for row in rows)])
