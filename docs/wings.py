"""Draw docs/images/wings.svg from the table of docs/explanation/architecture.md: `python docs/wings.py`."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "explanation" / "architecture.md"
PICTURE = DOCS / "images" / "wings.svg"
WIDTH, ROW, GAP = 760, 34, 6


def wings(text: str) -> list[tuple[str, str]]:
    """Name and purpose of each row of the table under the marker `<!-- wings -->`, from top to bottom."""
    table = text.split("<!-- wings -->\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return [(name.strip("` "), purpose.replace("`", "")) for name, purpose in rows]


def draw(rows: list[tuple[str, str]]) -> str:
    """The wings as boxes, one above the other, with an arrow down beside them."""
    height = len(rows) * (ROW + GAP) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">',
        "<title>The wings of finetune; each imports from those below it</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<path d="M16 {GAP + 8} V{height - 14} m-6 -10 l6 10 l6 -10" fill="none" stroke="#5a6270" stroke-width="2"/>',
        f'<text transform="translate(36 {height / 2}) rotate(-90)" text-anchor="middle" fill="#5a6270">imports</text>',
    ]
    for number, (name, purpose) in enumerate(rows):
        y = GAP + number * (ROW + GAP)
        lines += [
            f'<rect x="48" y="{y}" width="{WIDTH - 56}" height="{ROW}" rx="5" fill="#eef2f8" stroke="#9fb0c8"/>',
            f'<text x="60" y="{y + 22}" font-weight="600" fill="#1c2a3a">{escape(name)}</text>',
            f'<text x="160" y="{y + 22}" fill="#1c2a3a">{escape(re.sub("->", "→", purpose))}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(wings(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
