"""Images that are unlike the others: very small or long, dark, bright or empty, of another mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from finetune.data.checks.findings import Finding, Severity
from finetune.data.checks.looks import Looks
from finetune.data.checks.near import FLAT
from finetune.errors import listing

SMALL = 32
"""Pixels of the short side below which there is little to see."""
LONG = 4.0
"""Long over short side from which on a square crop loses most of an image."""
DEVIANT = 6.0
"""Distance from the median brightness, in robust standard deviations (1.4826 times the median deviation)."""
KIND = 0.05
"""Share of the images from which on they are not odd, but a kind of their own."""
SHOWN = 12


def find(looks: Looks) -> Iterator[Finding]:
    """Sizes and modes in one line, and then what stands out."""
    if not len(looks):
        return
    yield _sizes(looks)
    short, long = looks.size.min(axis=1), looks.size.max(axis=1)
    yield from _some("small", short < SMALL, f"{{}} images with a side below {SMALL} pixels", short)
    yield from _some(
        "long", long > LONG * short, f"{{}} images more than {LONG:g} times as long as wide", -long / short
    )
    flat = looks.contrast < FLAT
    yield from _some("empty", flat, "{} images of almost one colour", looks.contrast)
    middle = np.median(looks.brightness)
    spread = 1.4826 * np.median(np.abs(looks.brightness - middle))
    away = np.abs(looks.brightness - middle)
    odd = (away > DEVIANT * max(float(spread), 1e-6)) & ~flat & (away > 0.1)
    title = "{} images much darker or brighter than the others"
    if odd.mean() > KIND:
        yield from _some("brightness", odd, f"{title}: so many are a kind of their own", -away, "note")
    else:
        yield from _some("brightness", odd, title, -away)


def _sizes(looks: Looks) -> Finding:
    width, height = np.median(looks.size, axis=0).astype(int)
    low, high = looks.size.min(axis=0), looks.size.max(axis=0)
    modes = Counter(looks.mode.tolist()).most_common()
    of = listing(f"{mode} {count}" for mode, count in modes)
    title = f"sizes: median {width} x {height}, from {low[0]} x {low[1]} to {high[0]} x {high[1]}; modes: {of}"
    return Finding("sizes", "note", title)


def _some(
    key: str, which: np.ndarray, title: str, order: np.ndarray, severity: Severity = "warning"
) -> Iterator[Finding]:
    places = np.flatnonzero(which)
    if len(places):
        shown = places[np.argsort(order[places], kind="stable")][:SHOWN]
        said = (f"the {SHOWN} most so are shown",) if len(places) > SHOWN else ()
        yield Finding(key, severity, title.format(len(places)), said, images=tuple((int(place),) for place in shown))
