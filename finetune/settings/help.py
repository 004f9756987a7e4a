"""The short help, `python -m finetune -h`: what most people need, with examples, on one screen."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence

SHOWN = (
    "dataset",
    "target_column",
    "model",
    "pretrained",
    "image_size",
    "freeze",
    "epochs",
    "batch_size",
    "lr",
    "imbalance",
    "accelerator",
    "devices",
    "workers",
    "seed",
    "output",
    "resume",
    "publish",
)
"""Fields of the flags that it names."""

EXAMPLES = """\
  python -m finetune --model resnest50 --dataset photos/         one folder a class
  python -m finetune --model resnest101 --dataset food101        a dataset of the Hub
  python -m finetune --model resnest50 --dataset photos/ --freeze backbone     seconds after the features
  python -m finetune --resume runs/photos                        go on with a run
  python -m finetune predict runs/photos new/*.jpg               what a run's model says
  python -m finetune demo runs/photos                            a page to drop images on"""
_WIDTH = 110


def docs(kind: type) -> Iterator[tuple[str, str]]:
    """Name and text of a dataclass's fields, those of its bases first: the string below each, on one line."""
    for parent in reversed(kind.__mro__[:-1]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value.value if isinstance(below.value, ast.Constant) else ""
                yield field.target.id, " ".join(str(text).split())


def short(prog: str, groups: Mapping[str, type], verbs: Sequence[str]) -> str:
    """The short help.

    Args:
        prog: How the command is called.
        groups: Dataclasses of the flags, by group.
        verbs: Of the command line.
    """
    lines = [
        "Finetune an image model: from a dataset's name to a model that stock timm and transformers load.",
        "",
        EXAMPLES,
        "",
    ]
    total = 0
    for kind in groups.values():
        known = dict(docs(kind))
        total += len(dataclasses.fields(kind))
        for name in (name for name in SHOWN if name in known):
            first = known[name].partition(". ")[0].rstrip(".")
            left = f"  --{name.replace('_', '-')}"
            text = textwrap.fill(
                first, _WIDTH, initial_indent=f"{left:20}", subsequent_indent=20 * " ", break_on_hyphens=False
            )
            lines += text.splitlines()
    verbs_line = f"Verbs: {', '.join(verbs)} (the default is train); {prog} VERB --help describes each."
    lines += ["", *textwrap.wrap(verbs_line, _WIDTH, break_on_hyphens=False)]
    lines.append(f"All {total} flags: {prog} --help")
    return "\n".join(lines)
