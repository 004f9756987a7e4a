"""What the demo's page shows, as HTML: text of models and datasets is escaped, numbers are as printed elsewhere."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from html import escape as _escape

from finetune.evaluation.palette import BLUE, GREEN, ORANGE, SKY, percent

_SEGMENTS = (BLUE, ORANGE, GREEN, SKY)

STYLE = """
.fd h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .25rem; overflow-wrap: anywhere; }
.fd h2 { font-size: 1rem; font-weight: 600; margin: 0 0 .5rem; }
.fd p { margin: .15rem 0; color: var(--body-text-color); opacity: .8; overflow-wrap: anywhere; }
.fd p.error { color: var(--error-text-color); opacity: 1; }
.fd .label { font-size: 1.75rem; line-height: 1.2; font-weight: 600; margin: 0 0 .75rem; overflow-wrap: anywhere; }
.fd .row { margin: 0 0 .6rem; }
.fd .said { display: flex; justify-content: space-between; gap: 1rem; margin-bottom: .15rem; }
.fd .said span:first-child { overflow-wrap: anywhere; }
.fd .said span:last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.fd .bar { height: .6rem; display: flex; border-radius: .3rem; overflow: hidden; }
.fd .bar { background: var(--border-color-primary); }
.fd .bar i { display: block; height: 100%; }
#picture img { width: 100%; height: 100%; object-fit: contain; }
"""
"""Follows the page's light and dark colours."""

NO_DETAILS = "What split attention prefers in an image appears here."
EMPTY = "Drop an image, and the most probable classes appear here."


def escape(text: str) -> str:
    """Text of any source for HTML, and for the templates that Gradio makes of it: no markup in it acts.

    What is invisible or turns the text around it (control and format characters) becomes a box.
    """
    seen = "".join("\N{WHITE SQUARE}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)
    return _escape(seen).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")


def unique(names: Sequence[str]) -> list[str]:
    """Class names that can be told apart: of several alike, and of empty ones, with their number, counted from 0."""
    names = [name.strip() for name in names]
    counts = Counter(names)
    return [
        name if name and counts[name] == 1 else f"{name} (class {index})" if name else f"class {index}"
        for index, name in enumerate(names)
    ]


def header(title: str, lines: Sequence[str]) -> str:
    """The head of the page."""
    return f'<div class="fd"><h1>{escape(title)}</h1>{_paragraphs(lines)}</div>'


def answer(top: Sequence[tuple[str, float]]) -> str:
    """The most probable classes as bars.

    Args:
        top: Names and probabilities, highest first; empty where a model that may say so finds none.
    """
    rows = "".join(_row(escape(name), escape(percent(share, 1)), [(share, BLUE)]) for name, share in top)
    first = escape(top[0][0]) if top else "None of the classes"
    return f'<div class="fd answer"><div class="label">{first}</div>{rows}</div>'


def statement(main: str, lines: Sequence[str]) -> str:
    """An answer in large letters, and lines below it."""
    return f'<div class="fd answer"><div class="label">{escape(main)}</div>{_paragraphs(lines)}</div>'


def placeholder(text: str) -> str:
    """What stands where the answer will be."""
    return f'<div class="fd">{_paragraphs([text])}</div>'


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line).replace(' %', '&nbsp;%')}</p>" for line in lines)


def failure(text: str) -> str:
    """Why there is no answer."""
    return f'<div class="fd"><p class="error" role="alert">{escape(text)}</p></div>'


def splits(preferences: Sequence[Sequence[float]]) -> str:
    """Which split each stage prefers, as one bar a stage.

    Args:
        preferences: Weights by stage and split, of `resnest_timm.split_preferences`.
    """
    radix = len(preferences[0])
    if radix == 1:
        heading = "How far split attention opens"
        words = (
            "This ResNeSt has radix 1: there is nothing to choose from. Each channel has one gate between 0 and 1 (a "
            "sigmoid), computed for this image; shown is its average over the channels and blocks of a stage."
        )
    else:
        heading = "Where split attention looks"
        words = (
            f"Each block has {radix} splits and weighs them anew for every image (a softmax over the splits). Shown "
            "from left to right is each split's weight, averaged over the channels and blocks of a stage; the "
            "preferred one is bold."
        )
    rows = "".join(
        _row(f"Stage {stage}", _weights(weights), list(zip(weights, _SEGMENTS * radix, strict=False)))
        for stage, weights in enumerate(preferences, start=1)
    )
    return f'<div class="fd splits"><h2>{heading}</h2>{rows}<p>{words}</p></div>'


def _weights(weights: Sequence[float]) -> str:
    """`<b>52.1 %</b> / 47.9 %`; a single one is no preference."""
    most = max(weights) if len(weights) > 1 else None
    texts = [escape(percent(weight, 1)) for weight in weights]
    return " / ".join(f"<b>{t}</b>" if w == most else t for w, t in zip(weights, texts, strict=True))


def _row(name: str, value: str, segments: Sequence[tuple[float, str]]) -> str:
    """A line of text over its bar; `name` and `value` are HTML."""
    bars = "".join(f'<i style="width: {100 * share:.2f}%; background: {colour}"></i>' for share, colour in segments)
    return (
        f'<div class="row"><div class="said"><span>{name}</span><span>{value}</span></div>'
        f'<div class="bar" aria-hidden="true">{bars}</div></div>'
    )


def classes(names: Sequence[str]) -> str:
    """All class names."""
    return f'<div class="fd"><p>{" &middot; ".join(escape(name) for name in names)}</p></div>'
