"""How all figures look, and how text of any dataset gets into one.

Figures are 8 inches wide, of 1,600 pixels: sharp where a card shows them at half of that, and 9 points are readable.
Colours are those of `finetune.evaluation.palette`.
"""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from finetune.evaluation import palette
from finetune.evaluation.palette import percent as percent

WIDTH = 8.0
"""Inches."""
DPI = 200
BLUE, ORANGE, GREEN, SKY = palette.BLUE, palette.ORANGE, palette.GREEN, palette.SKY
INK, GREY, PALE = "#222222", "#767676", "#E4E4E4"

_FALLBACKS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)
"""Looked for on this machine for what DejaVu Sans, which comes with matplotlib, has no glyphs for."""


@cache
def fonts() -> tuple[str, ...]:
    """DejaVu Sans, and those of the other scripts' fonts that this machine has."""
    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FALLBACKS if name in installed))


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's matplotlibrc says, and ours over them; the old ones afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": list(fonts()),
                "font.size": 9,
                "axes.titlesize": 9.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.labelsize": 9,
                "axes.labelcolor": INK,
                "axes.edgecolor": GREY,
                "axes.linewidth": 0.7,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "grid.color": PALE,
                "grid.linewidth": 0.7,
                "xtick.color": GREY,
                "ytick.color": GREY,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "xtick.labelsize": 8,
                "ytick.labelsize": 8,
                "text.color": INK,
                "text.parse_math": False,  # a class may be called `$x_1$`
                "lines.linewidth": 1.6,
                "lines.markersize": 5,
                "legend.frameon": False,
                "legend.fontsize": 8.5,
                "figure.dpi": DPI,
                "savefig.dpi": DPI,
            }
        )
        yield


def figure(height: float) -> Figure:
    """An empty figure of the common width, `height` in inches; it belongs to no window and no pyplot."""
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path, limit: int = 300_000, photographs: bool = False) -> None:
    """Write a PNG, as a rule of at most 256 colours; the file appears whole or not at all.

    Args:
        made: The figure.
        path: Of the PNG.
        limit: Bytes that it should not exceed; a larger one is drawn again with fewer pixels, down to 800 across.
        photographs: Keep all colours: a palette, which has a third of the size, would turn skies into steps.
    """
    for dpi in (DPI, 150, 120, 100):
        encoded = _encode(made, dpi, photographs)
        if len(encoded) <= limit:
            break
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_bytes(encoded)
    os.replace(temporary, path)


def _encode(made: Figure, dpi: int, photographs: bool) -> bytes:
    drawn, small = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png", dpi=dpi)
    image = Image.open(drawn).convert("RGB")
    (image if photographs else image.quantize(256)).save(small, format="png", optimize=True)
    return small.getvalue()


@cache
def _glyphs() -> frozenset[int]:
    """Code points that one of our fonts has."""
    paths = (font_manager.findfont(name) for name in fonts())
    return frozenset(code for path in paths for code in FT2Font(path).get_charmap())


def readable(names: Sequence[str]) -> list[str]:
    """Class names as a figure can show them: on one line, and without what would turn text around or be invisible.

    Characters without a glyph become boxes; then the class's number, counted from 0, stands before what is left.
    """
    shown = []
    for index, name in enumerate(names):
        printable = "".join(c for c in " ".join(name.split()) if unicodedata.category(c)[0] != "C").strip()
        drawn = "".join(c if ord(c) in _glyphs() else "\N{WHITE SQUARE}" for c in printable)
        shown.append(drawn if printable and drawn == printable else f"{index}: {drawn}".rstrip(": "))
    return shown


def renderer(made: Figure) -> RendererAgg:
    """What measures the figure's text."""
    return made.canvas.get_renderer()  # type: ignore[attr-defined, no-any-return]  # ours is always FigureCanvasAgg


def width_of(made: Figure, text: str, size: float) -> float:
    """Width of a line of text in inches, `size` in points."""
    artist = Text(0, 0, text, fontsize=size)
    artist.set_figure(made)
    return float(artist.get_window_extent(renderer(made)).width / made.dpi)


def shorten(made: Figure, text: str, size: float, inches: float) -> str:
    """The text, or as much of its beginning and end as fits into `inches`, with an ellipsis between."""
    if width_of(made, text, size) <= inches:
        return text
    fewest, most = 1, len(text) - 1
    while fewest < most:  # the largest number of characters that fits
        middle = (fewest + most + 1) // 2
        if width_of(made, _without_middle(text, middle), size) <= inches:
            fewest = middle
        else:
            most = middle - 1
    return _without_middle(text, fewest)


def _without_middle(text: str, characters: int) -> str:
    end = characters // 3
    return f"{text[: characters - end].rstrip()}\N{HORIZONTAL ELLIPSIS}{text[len(text) - end :].lstrip()}"


def number(value: float) -> str:
    """Four decimals, or as many digits where these would hide a small number or make a large one longer."""
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.4g}"


def bare(axes: Axes) -> None:
    """Neither frame nor ticks."""
    axes.set_axis_off()
