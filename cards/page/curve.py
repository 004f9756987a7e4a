"""What more training images would bring, as the page prints it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cards.page.text import escape, number

FIGURE = "figures/shares.png"
TITLE = "Test score against the number of training images"


def section(found: dict[str, Any], model: Path) -> str:
    """A table, what follows from it, and the picture where it is there.

    Args:
        found: `evaluation.curve` of result.json.
        model: Folder of the picture.
    """
    title = escape(found["score"])
    rows = [
        f"| {point['images']:,} | {number(point['score'])} | {_ends(point['interval'])} |" for point in found["points"]
    ]
    head = [f"| training images | test {title} | {100 * found['level']:g} % interval |", "|---:|---:|:---:|"]
    parts = ["\n".join([*head, *rows]), _sentence(found, title)]
    if (model / FIGURE).is_file():
        parts.append(f"![{TITLE}]({FIGURE})")
    return "\n\n".join(parts)


def _sentence(found: dict[str, Any], title: str) -> str:
    how = (
        "Trainings with the same settings on nested parts of the training images; intervals are over the test images, "
        "and another training of the same size would differ besides."
    )
    if found["law"] is None or found["doubled"] is None:
        return how
    law, doubled = found["law"], found["doubled"]
    error = "1 less it" if found["higher"] else "it"
    return (
        f"{how} A power law through them ({error} = {number(law['c'])} + {law['a']:.3g} n^-{law['b']:.2f}) says "
        f"{title} {number(doubled['value'])} ({_ends(doubled['interval'])}) of twice as many images."
    )


def _ends(interval: list[float]) -> str:
    low, high = interval
    return f"{number(low)} to {number(high)}"
