"""Text from outside -> Markdown in which nothing of it acts, and shell words; numbers as cards print them."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[`*_{}\[\]!|~$#>\\&<]")
_ENTITIES = {"\\": "&#92;", "&": "&amp;", "<": "&lt;"}
"""Not by a backslash: the Hub takes two of them before a bracket for mathematics."""
_AUTOLINK = re.compile(r"(?=://)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Part of how some scripts and emoji are written."""


def visible(text: object) -> str:
    """On one line; characters that nobody sees, or that turn the direction of writing, as their code.

    Also lone surrogates, which no file in UTF-8 can hold.
    """
    line = " ".join(str(text).split())
    return "".join(c if c in _JOINERS or unicodedata.category(c) not in _UNSEEN else _code(c) for c in line)


def escape(text: object) -> str:
    """Text from a dataset as plain Markdown text, on one line: no markup, HTML, cell, link or template in it acts.

    An empty HTML comment keeps renderers that make links of bare addresses from doing so; it is not seen.
    """
    parts = []
    for part in _AUTOLINK.split(visible(text)):
        parts.append(_SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), part))
    return "<!-- -->".join(parts) or '""'


def name_list(names: Iterable[str], most: int) -> str:
    """Names, escaped and joined; of more than `most` the first ones, and how many others."""
    known = [escape(name) for name in names]
    rest = len(known) - most
    return ", ".join(known[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def number(value: float) -> str:
    """A score with four decimals; one that is very small or very large with four digits."""
    return f"{value:.4f}" if value == 0 or 5e-4 <= abs(value) < 1e5 else f"{value:.4g}"


def command(words: Sequence[str], program: str = "python -m finetune", width: int = 85) -> str:
    """A shell command, a flag and its value together, over several lines where it is long.

    No word has a line of its own that could end a code block: what is not plain is within quotation marks.
    """
    groups: list[str] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append(_quoted(word))
        else:
            groups[-1] += f" {_quoted(word)}"
    lines = [program]
    for group in groups:
        if len(lines[-1]) + len(group) > width:
            lines[-1] += " \\"
            lines.append(f"  {group}")
        else:
            lines[-1] += f" {group}"
    return "\n".join(lines)


def _quoted(word: str) -> str:
    """As a POSIX shell reads it; what cannot be printed as bash's and zsh's `$'...'` has it."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_code(c) if not c.isprintable() else f"\\{c}" if c in "\\'" else c for c in word) + "'"


def _code(character: str) -> str:
    point = ord(character)
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
