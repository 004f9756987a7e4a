"""The examples of the README and of docs/, found by the marker above each: `<!-- example: name -->`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def example(name: str, document: str = "README.md") -> str:
    """The code of an example, as it is written.

    Args:
        name: What its marker says.
        document: Path of the document, from the root of the repository.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{document} has no example {name!r}"
    return found[1]
