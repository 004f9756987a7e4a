"""Lay out in build/docs what the site is built from: `python docs/pages.py`; `make docs` does it, then builds the site.

The pages of docs/ as they are, the README as the home page, the changelog and the benchmarks beside them, and in place
of each `<!-- generated: ... -->` what the code says: flags from the settings, public names from the packages.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from finetune import cli  # noqa: E402  (needs the path)
from finetune.settings import help  # noqa: E402
from finetune.settings.options import flag  # noqa: E402

OUTPUT = ROOT / "build" / "docs"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "explanation/benchmarks.md",
    "LICENSE": "LICENSE.txt",
}
"""Files outside of docs/ that the site has, by the place they have there."""


def main(output: Path = OUTPUT) -> None:
    """Write the folder anew."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(DOCS, output, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, place in ELSEWHERE.items():
        shutil.copy(ROOT / name, output / place)
    origin = {place: name for name, place in ELSEWHERE.items()}
    for page in output.rglob("*.md"):
        place = page.relative_to(output).as_posix()
        text = page.read_text(encoding="utf-8")
        text = relinked(text, origin.get(place, f"docs/{place}"), place)
        text = re.sub(r"<!-- example: .+ -->\n", "", text)  # what the tests find the examples by
        page.write_text(re.sub(r"<!-- generated: (.+) -->", _generated, text), encoding="utf-8")


def relinked(text: str, source: str, place: str) -> str:
    """A page's text with its links as they must be where the page stands in the site.

    Args:
        text: Markdown.
        source: Where the page lies in the repository.
        place: Where it lies in the site.
    """

    def link(match: re.Match[str]) -> str:
        path, anchor = match[2], match[3] or ""
        if re.match(r"[a-z]+:", path) or not path:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(place) or '.')}{anchor})"

    return re.sub(r"(\]\()([^)#\s]*)(#[^)\s]*)?\)", link, text)


def _generated(match: re.Match[str]) -> str:
    kind, _, argument = match[1].partition(" ")
    return {"flags": flags, "api": api}[kind](*argument.split())


def flags() -> str:
    """A section for each verb, a table for each group of its flags."""
    parts = []
    for verb in cli.VERBS:
        options = options_of(verb)
        parts += [f"## {verb}", "```text\n" + _usage(verb) + "\n```"]
        groups = [f for f in dataclasses.fields(options) if dataclasses.is_dataclass(f.default_factory)]
        if groups:
            for group in groups:
                parts += [f"### {group.name}", _doc(group.default_factory), _table(group.default_factory)]
        else:
            parts += [_doc(options), _table(options)]
    return "\n\n".join(part for part in parts if part)


class _Seen(Exception):
    """Ends a verb as soon as it has said which settings it parses."""


def options_of(verb: str) -> Any:
    """The dataclass that a verb's flags are made from."""
    seen: list[Any] = []

    def parse(kind: Any, *_: Any, **__: Any) -> Any:
        seen.append(kind)
        raise _Seen

    with mock.patch.object(cli, "parse", parse):
        try:
            cli.VERBS[verb]([])
        except _Seen:
            return seen[0]
    raise AssertionError(f"{verb} parses no flags")


def _usage(verb: str) -> str:
    name = "" if verb == "train" else f" {verb}"
    places = [] if verb == "train" else [_place(f) for f in _fields(options_of(verb)) if _positional(f)]
    return " ".join([f"python -m finetune{name}", *places, "[FLAGS]"])


def _fields(kind: Any) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of each field, those of a parent first."""
    hints = get_type_hints(kind, include_extras=True)
    return [(f.name, hints[f.name], f.default) for f in dataclasses.fields(kind)]


def _settings(annotation: Any) -> Any:
    """What a field tells the parser: its `tyro.conf.arg`, or None."""
    found = [m for m in getattr(annotation, "__metadata__", ()) if hasattr(m, "help_behavior_hint")]
    return found[0] if found else None


def _positional(field: tuple[str, Any, Any]) -> bool:
    return "Positional" in str(getattr(field[1], "__metadata__", ""))


def _place(field: tuple[str, Any, Any]) -> str:
    told = _settings(field[1])
    return (told and told.metavar) or field[0].upper()


def _table(kind: Any) -> str:
    texts = dict(help.docs(kind))
    rows = ["| flag | value | default | |", "|---|---|---|---|"]
    for field in _fields(kind):
        name, annotation, default = field
        told = _settings(annotation)
        named = f"--{told.name}" if told and told.name else flag(name)
        shown = _place(field) if _positional(field) else named
        cells = [f"`{shown}`", _values(annotation), _default(annotation, default), _plain(texts.get(name, ""))]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _plain(text: str) -> str:
    """A sentence whose signs mean nothing in Markdown, but for `code`."""
    parts = text.split("`")
    return "`".join(part if number % 2 else re.sub(r"([\[\]*_<])", r"\\\1", part) for number, part in enumerate(parts))


def _values(annotation: Any) -> str:
    kinds = list(_kinds(annotation))
    choices = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    names = {bool: "switch", int: "whole number", float: "number", str: "text", Path: "path"}
    return next((names[kind] for kind in kinds if kind in names), "text")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types in an annotation: of `Annotated[int | None, ...]`, int."""
    if hasattr(annotation, "__metadata__"):
        yield from _kinds(annotation.__origin__)
    elif get_origin(annotation) is Literal or not get_args(annotation):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _kinds(inner)


def _default(annotation: Any, default: Any) -> str:
    told = _settings(annotation)
    hint = told.help_behavior_hint if told else None
    if isinstance(hint, str):
        return hint.removeprefix("(").removesuffix(")").removeprefix("default: ")
    if default is dataclasses.MISSING:
        return "required"
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default == () else f"`{default}`"


def _doc(kind: Any) -> str:
    return "" if kind.__doc__.startswith("Flags(") else _plain(inspect.cleandoc(kind.__doc__))


def api(package: str) -> str:
    """A directive of mkdocstrings for each public name, where it is defined."""
    lines = []
    for name, home in public(package):
        lines += [f"::: {home}.{name}", ""]
        if name.endswith(("Options", "Config")):  # whose fields are the flags, on a page of their own
            lines[-1:] = ["    options:", "      members: false", ""]
    return "\n".join(lines)


def public(package: str) -> Iterator[tuple[str, str]]:
    """Each name of a package's `__all__`, and the module that it is imported from there."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    homes = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    for name in ast.literal_eval(values[0]):
        if not re.match(r"resnest\d|__", name):  # the models, which reference/zoo.md lists, and the version
            yield name, str(homes[name])


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
