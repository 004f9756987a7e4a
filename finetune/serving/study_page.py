"""A page of its own for what was found in a dataset: one file, thumbnails inside, no script, text escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from finetune.serving.html import escape

SIDE = 160
"""Longest side of a thumbnail in pixels."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --bad: #b42318; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --bad: #ff8b7e; --back: #0d1117; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .25rem 0; color: var(--soft); }
.serious { color: var(--bad); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .75rem; margin: .75rem 0; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; margin: 0; }
.card .shown { display: flex; gap: .5rem; align-items: center; }
.card img { width: 100%; min-width: 0; flex: 1; height: 9rem; object-fit: contain; display: block; }
figcaption { font-size: .8125rem; line-height: 1.35; margin-top: .4rem; }
figcaption b { font-weight: 600; } figcaption i { font-style: normal; color: var(--soft); display: block; }
""".strip()


@dataclass(frozen=True)
class Card:
    """One or several pictures and what they are.

    Attributes:
        pictures: RGB; those that could be read.
        title: In bold.
        lines: Below it.
    """

    pictures: Sequence[Image.Image]
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        lines: Text.
        cards: Pictures.
        serious: Whether the heading is marked.
    """

    title: str
    lines: Sequence[str] = ()
    cards: Sequence[Card] = ()
    serious: bool = False


def page(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole document."""
    head = "".join(f"<p>{_text(line)}</p>" for line in lines)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{head}{''.join(map(_section, sections))}</body></html>\n"
    )


def thumbnail(picture: Image.Image) -> str:
    """A JPEG as a data URI, no side longer than `SIDE`."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = BytesIO()
    small.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _text(text: str) -> str:
    """Escaped; a number and its % stay on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def _section(section: Section) -> str:
    mark = ' class="serious"' if section.serious else ""
    pairs = " pairs" if any(len(card.pictures) > 1 for card in section.cards) else ""
    cards = f'<div class="cards{pairs}">{"".join(map(_card, section.cards))}</div>' if section.cards else ""
    text = "".join(f"<p>{_text(line)}</p>" for line in section.lines)
    return f"<h2{mark}>{_text(section.title)}</h2>{text}{cards}"


def _card(card: Card) -> str:
    shown = "".join(f'<img alt="" src="{thumbnail(picture)}">' for picture in card.pictures)
    lines = "".join(f"<i>{_text(line)}</i>" for line in card.lines)
    title = f"<b>{_text(card.title)}</b>"
    return f'<figure class="card"><div class="shown">{shown}</div><figcaption>{title}{lines}</figcaption></figure>'
