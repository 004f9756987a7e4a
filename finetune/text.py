"""Text where it is shown: of strangers, nothing in it acts on a terminal, in a log or in a spreadsheet."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Part of how some scripts and emoji are written."""
_PLAIN = re.compile(r"[ -~\n]*")
_FORMULA = re.compile(r"\s*[=+\-@\t]")


def visible(text: str, keep: str = "") -> str:
    """Characters that nobody sees, that move the cursor or turn the direction of writing, as their code.

    Args:
        text: Of anybody.
        keep: Characters that stay, such as the newline of a message of several lines.
    """
    if _PLAIN.fullmatch(text) and ("\n" in keep or "\n" not in text):
        return text
    shown = keep + _JOINERS
    return "".join(
        c if c in shown or unicodedata.category(c) not in _UNSEEN else c.encode("unicode_escape").decode() for c in text
    )


def cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would compute begins with an apostrophe.

    Numbers stay numbers: only text is changed.
    """
    if not isinstance(value, str):
        return value
    line = value.replace("\r", "\\r")  # which the csv module leaves unquoted, and readers take for the end of a row
    return f"'{line}" if _FORMULA.match(line) else line


_SINGULAR = {"pairs": "pair", "images": "image", "boxes": "box", "masks": "mask", "classes": "class", "rows": "row"}


def counted(text: str) -> str:
    """A line that begins with a number and what it counts, `7 pairs of ...`: of one of them, `1 pair of ...`."""
    number, _, rest = text.partition(" ")
    word, gap, rest = rest.partition(" ")
    return f"{number} {_SINGULAR[word]}{gap}{rest}" if number == "1" and word in _SINGULAR else text


def unquoted(text: str) -> str:
    """An error's words without the bytes that it quotes of a file, which may be of anything."""
    return re.sub(r"""\bb(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", "...", text)
