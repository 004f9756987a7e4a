"""The examples of the README and of docs/, found by the marker above each: `<!-- example: name -->`."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))


class Block(NamedTuple):
    """A fenced block: where it stands, what its marker says (or nothing), what it is written in."""

    document: str
    name: str
    language: str
    code: str


def blocks(document: str) -> list[Block]:
    """Every fenced block of a document, with or without a marker."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"(?:<!-- example: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(document, *parts) for parts in found]


def example(name: str, document: str) -> str:
    """The code of an example, as it is written.

    Args:
        name: What its marker says.
        document: Path of the document, from the root of the repository.
    """
    found = [block.code for block in blocks(document) if block.name == name]
    assert len(found) == 1, f"{document} has {len(found)} examples {name!r}"
    return found[0]
