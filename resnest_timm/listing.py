"""The zoo as a table or as JSON; parameters and multiply-accumulates are computed, not typed in."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from fnmatch import fnmatch

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from resnest_timm.errors import UsageError
from resnest_timm.resnest import VARIANTS
from resnest_timm.stock import stock_form
from resnest_timm.zoo.catalogue import CHECKPOINTS, Checkpoint, default_checkpoint

HEADER = ("model", "authors' name", "source", "hash", "size", "params M", "GMAC", "top-1", "protocol")


@functools.cache
def measure(architecture: str, image_size: int) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of the convolutions and linear layers for one square image.

    The network is built and run on the device `meta`: shapes without memory.
    """
    model = timm.create_model(architecture, device="meta").eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, counter.get_total_flops() // 2


def select(pattern: str | None) -> list[Checkpoint]:
    """The rows with a name that matches a shell pattern; failing that, with a name or source that contains it.

    Raises:
        UsageError: Nothing matches.
    """
    if pattern is None:
        return list(CHECKPOINTS)
    rows = [row for row in CHECKPOINTS if any(fnmatch(name, pattern) for name in row.names)]
    rows = rows or [
        row for row in CHECKPOINTS if any(fnmatch(name, f"*{pattern}*") for name in (*row.names, row.source))
    ]
    if not rows:
        without = ", ".join(unreleased())
        raise UsageError(
            f"no released checkpoint matches {pattern!r}; give a name or a pattern such as 'resnest50*', or nothing to "
            f"list all (no weights were ever released for {without})"
        )
    return rows


def unreleased() -> list[str]:
    """Variants without any released weights."""
    return sorted(VARIANTS.keys() - {row.architecture for row in CHECKPOINTS})


def as_json(rows: Sequence[Checkpoint]) -> str:
    """Every field of the rows, and what follows from them; what is not known is null.

    `names`, `parameters`, `macs`; `default`: whether `pretrained=True` loads it; `stock`: architecture and arguments by
    which timm without this package builds the model.
    """
    entries = []
    for row in rows:
        parameters, macs = measure(row.architecture, row.image_size)
        architecture, arguments = stock_form(row.architecture, {})
        known = {"names": row.names, "parameters": parameters, "macs": macs}
        known |= {"default": row == default_checkpoint(row.architecture)}
        known |= {"stock": {"architecture": architecture, "arguments": arguments}}
        entries.append(dataclasses.asdict(row) | known)
    return json.dumps(entries, indent=2)


def as_table(rows: Sequence[Checkpoint]) -> str:
    """Aligned columns, numbers to the right; no trailing spaces."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    numbers = range(HEADER.index("size"), HEADER.index("protocol"))
    lines = []
    for line in cells:
        padded = (
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Checkpoint) -> tuple[str, ...]:
    parameters, macs = measure(row.architecture, row.image_size)
    other = row.authors_name if row.authors_name != row.architecture else ""
    digest = f"sha256 {row.sha256}" if row.sha256 else f"sha1 {row.sha1[:8]}" if row.sha1 else ""
    counts = (str(row.image_size), f"{parameters / 1e6:.3f}", f"{macs / 1e9:.2f}")
    top1 = "" if row.top1 is None else f"{row.top1:.3f}".removesuffix("0")
    return (row.architecture, other, row.source, digest, *counts, top1, row.protocol)
