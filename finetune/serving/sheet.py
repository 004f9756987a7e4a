"""A page of its own: one HTML file with its style and pictures in it, that asks nobody for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image as PILImage

from finetune.data import images
from finetune.serving.html import escape

SIDE = 160
"""Pixels of a thumbnail's longer side."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
body { overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .4rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; min-width: 5rem; }
td:not(:first-child) { white-space: nowrap; }
.better { color: #009E73; } .worse { color: #D55E00; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem; padding: 0; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.3; }
img { width: 100%; height: 9rem; object-fit: contain; background: #8882; }
.quiet { opacity: .75; font-size: .9rem; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole file.

    Args:
        title: Text.
        parts: HTML, escaped by who made it.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        f"'unsafe-inline'\"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Text, of a class of the style where one is given."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where a screen is narrow; a last cell of better or worse has its colour."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = f' class="{text}"' if text in ("better", "worse") else ""
    return f"<td{kind}>{escape(text)}</td>"


def pictures(entries: Sequence[tuple[Any, Sequence[str]]]) -> str:
    """Thumbnails with lines of text below.

    Args:
        entries: What `finetune.data.images.decode` takes, and the lines.
    """
    captions = ["<br>".join(map(escape, lines)) for _, lines in entries]
    shown = "".join(
        f'<figure><img alt="" src="{thumbnail(value)}"><figcaption>{caption}</figcaption></figure>'
        for (value, _), caption in zip(entries, captions, strict=True)
    )
    return f'<div class="pictures">{shown}</div>'


def thumbnail(value: Any) -> str:
    """A data URI: a JPEG without metadata; small images as they are, in a PNG."""
    picture = images.decode(value)
    small = max(picture.size) <= SIDE
    picture.thumbnail((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    content = BytesIO()
    clean = PILImage.new("RGB", picture.size)
    clean.paste(picture)
    clean.save(content, "PNG" if small else "JPEG")
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content.getvalue()).decode()}"
