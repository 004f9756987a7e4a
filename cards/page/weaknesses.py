"""Where a model fails, as the page prints it: kinds of test images, and corrupted ones."""

from __future__ import annotations

from typing import Any

from cards.page.text import escape, number

SHOWN = 10


def slices(found: dict[str, Any]) -> dict[str, Any]:
    """Rows of those kinds of images that are shown to be worse than the rest.

    Args:
        found: `evaluation.slices` of result.json.
    """
    each = found["each"]
    return {
        "title": escape(each[0]["title"]) if each else None,
        "tried": found["tried"],
        "images": f"{found['images']:,}",
        "rows": [
            (
                f"{escape(row['by'])}: {escape(row['slice'])}",
                number(row["score"]),
                f"{number(row['interval'][0])} to {number(row['interval'][1])}",
                number(row["rest"]),
                f"{row['images']:,}",
                number(row["p_adjusted"]),
            )
            for row in each
            if row["worse"]
        ][:SHOWN],
    }


def robustness(found: dict[str, Any]) -> dict[str, Any]:
    """A row for each corruption, a column for each strength; empty where time was over.

    Args:
        found: `evaluation.robustness` of result.json.
    """
    scores = {(row["corruption"], row["strength"]): number(row["scores"][found["by"]]) for row in found["each"]}
    names = list(dict.fromkeys(name for name, _ in [*scores, *map(tuple, found["left_out"])]))
    strengths = sorted({strength for _, strength in scores})
    return {
        "title": escape(found["title"]),
        "images": f"{found['images']:,}",
        "clean": number(found["clean"][found["by"]]),
        "strengths": [f"strength {strength}" for strength in strengths],
        "rows": [(escape(name), [scores.get((name, strength), "") for strength in strengths]) for name in names],
    }
