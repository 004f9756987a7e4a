"""Speed and memory of our ResNeSt, of timm's own classes and of a plain ResNet-D, side by side in one process.

    python benchmarks/model_speed.py --model resnest50d --threads 2

Prints Markdown tables; benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from speed_candidates import (
    Candidate,
    Dtype,
    Mode,
    Options,
    build_all,
    gradients_differ,
    measure_group,
    unequal,
)
from speed_runtimes import RUNTIMES, at_hand

from finetune.export.formats import named
from finetune.loading.allocator import freed_memory_kept
from resnest_timm.inference.hardware import has_fast_bf16
from resnest_timm.listing import measure
from resnest_timm.resnest import ALIASES, VARIANTS

# --- table -----------------------------------------------------------------------------------------------------------

HEADER = (
    "mode",
    "dtype",
    "form",
    "ours",
    "timm NCHW",
    "timm NHWC",
    "reference",
    "ours / timm",
    "ours / reference",
    "efficiency",
    "MiB ours / timm",
)


def best(group: list[Candidate], who: str, form: str) -> Candidate:
    """The fastest of a network in a form."""
    return min((entry for entry in group if (entry.who, entry.form) == (who, form)), key=lambda entry: entry.median)


def rows_of(group: list[Candidate], mode: Mode, dtype: Dtype, options: Options, differ: float | None) -> list[Any]:
    """One row per form, in which all three are compared."""
    macs = {"ours": measure(options.model, options.size)[1], "reference": measure(options.against, options.size)[1]}
    rows = []
    for form in dict.fromkeys(entry.form for entry in group if entry.form not in RUNTIMES):
        ours, theirs, reference = (best(group, who, form) for who in ("ours", "timm", "reference"))
        shown = [entry for entry in group if entry.form == form]
        equal = not unequal(shown, dtype, differ)
        faster = theirs.median / ours.median, reference.median / ours.median
        row: dict[str, Any] = {"mode": mode, "dtype": dtype, "form": form, "equal": equal}
        row |= {"ours": name(ours), "timm": name(theirs), "reference": name(reference), "gradients_differ": differ}
        ratios = (*faster, faster[1] * macs["ours"] / macs["reference"])
        for key, ratio in zip(("ours_over_timm", "ours_over_reference", "efficiency"), ratios, strict=True):
            row[key] = ratio if equal else None
        row["candidates"] = {name(entry): as_dict(entry, options.batch) for entry in shown}
        rows.append(row)
    return rows


def runtimes_row(group: list[Candidate], dtype: Dtype, options: Options) -> dict[str, Any] | None:
    """Ours in PyTorch, its fastest form that is not compiled, beside the libraries that run exported files."""
    there = {entry.form: entry for entry in group if entry.form in RUNTIMES}
    if not there:
        return None
    ours = min((e for e in group if e.who == "ours" and e.form in ("eager", "optimize")), key=lambda e: e.median)
    rivals = [ours, *there.values()]
    eager = [entry for entry in group if (entry.who, entry.form) == ("timm", "eager")]
    equal = not unequal([*rivals, *eager], dtype, None)
    row: dict[str, Any] = {
        "dtype": dtype,
        "ours": name(ours),
        "timm": name(best(group, "timm", "eager")),
        "equal": equal,
    }
    row["ratios"] = {library: entry.median / ours.median if equal else None for library, entry in there.items()}
    row["libraries"] = {library: name(entry) for library, entry in there.items()}
    row["candidates"] = {name(entry): as_dict(entry, options.batch) for entry in [*rivals, *eager]}
    return row


def runtimes_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    header = ["dtype", "ours", "timm eager", *(c for library in RUNTIMES for c in (library, f"ours / {library}"))]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        entries = row["candidates"]
        line = [row["dtype"], f"{speed(entries[row['ours']])} {row['ours'].split()[1]}", speed(entries[row["timm"]])]
        for library in RUNTIMES:
            ratio = row["ratios"].get(library, math.nan)
            line.append(speed(entries[row["libraries"][library]]) if library in row["libraries"] else "")
            line.append("outputs differ" if ratio is None else "" if math.isnan(ratio) else f"{ratio:.2f}")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speed(entry: dict[str, Any]) -> str:
    return f"{entry['images_per_second']:.1f} ±{100 * entry['spread']:.0f} %"


def name(entry: Candidate) -> str:
    return f"{entry.who} {entry.form} {entry.layout} {entry.precision}"


def as_dict(entry: Candidate, batch: int) -> dict[str, Any]:
    """For JSON."""
    numbers = {"images_per_second": batch / entry.median, "spread": entry.spread, "memory": entry.memory}
    compared = None if math.isnan(entry.difference) else entry.difference
    return {"calls": entry.calls, "seconds": entry.seconds, **numbers, "difference": compared}


def as_table(rows: list[dict[str, Any]], options: Options) -> str:
    """Markdown, numbers to the right."""
    header = [cell.replace("reference", options.against) for cell in HEADER]
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(row: dict[str, Any]) -> list[str]:
    """Of one row; `differs` in place of the ratios where the outputs are not equal."""
    entries = row["candidates"]

    def layout(key: str) -> str:
        return " " + " ".join(part for part in key.split()[2:] if part not in ("fp32", "bf16"))

    def timm_in(wanted: str) -> str:
        form = row["timm"].split()[1]
        found = [key for key in entries if key.split()[:3] == ["timm", form, wanted]]
        fastest = max(found, key=lambda key: entries[key]["images_per_second"], default=None)
        return "" if fastest is None else speed(entries[fastest]) + layout(fastest).replace(f" {wanted}", "")

    ratios = [row["ours_over_timm"], row["ours_over_reference"], row["efficiency"]]
    memory = [entries[row[who]]["memory"] for who in ("ours", "timm")]
    return [
        row["mode"],
        row["dtype"],
        row["form"],
        speed(entries[row["ours"]]) + layout(row["ours"]),
        timm_in("NCHW"),
        timm_in("NHWC"),
        speed(entries[row["reference"]]) + layout(row["reference"]),
        *("outputs differ" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "" if None in memory else " / ".join(f"{size / 2**20:.0f}" for size in memory),
    ]


def environment(options: Options) -> dict[str, Any]:
    """What the numbers depend on; versions of the libraries where ours is compared with them."""
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        machine = names[0] if names else platform.processor() or platform.machine()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{machine} ({options.device})",
        "bf16": "fast" if has_fast_bf16(options.device) else "slower than fp32",
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "freed memory": "kept" if options.keep_memory else "given back",
    } | {library: version(named(RUNTIMES[library]).runs) for library in at_hand("fp32") if options.runtimes}


# --- command line ----------------------------------------------------------------------------------------------------


def check(options: Options) -> Options:
    """The options with what is automatic found.

    Raises:
        ValueError: One of them cannot be.
    """
    model = ALIASES.get(options.model, options.model)
    if model not in VARIANTS:
        raise ValueError(f"--model {options.model}: expected a ResNeSt, one of {', '.join([*VARIANTS, *ALIASES])}")
    if not timm.is_model(options.against):
        raise ValueError(f"--against {options.against}: expected a model that timm knows, such as resnet50d")
    least = 2 if "training" in options.modes else 1  # timm's BatchNorms cannot be trained on one image
    if options.size < 32 or options.batch < least or options.repeats < 1:
        batch = f"--batch {least} or more for {' and '.join(options.modes)}"
        raise ValueError(f"expected --size 32 or more, {batch}, --repeats 1 or more")
    if not (options.modes and options.dtypes and options.layouts):
        raise ValueError("--modes, --dtypes and --layouts need at least one value each")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" != found:
        raise ValueError("--device cuda: PyTorch sees no CUDA GPU; use --device cpu")
    if options.clock == "cpu" and (options.threads != 1 or options.device == "cuda"):
        raise ValueError("--clock cpu: expected --threads 1 and no GPU, for threads that wait count as well")
    return dataclasses.replace(options, model=model, device=found if options.device == "auto" else options.device)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Returns:
        Exit code: 0 done, 1 outputs differ, 2 a flag that cannot be.
    """
    options = tyro.cli(Options, args=argv, description=__doc__)
    try:
        options = check(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    networks = build_all(options)
    differ = gradients_differ(networks) if "training" in options.modes else None
    rows: list[dict[str, Any]] = []
    in_runtimes: list[dict[str, Any]] = []
    with freed_memory_kept() if options.keep_memory else contextlib.nullcontext():
        for mode in options.modes:
            for dtype in options.dtypes:
                group = measure_group(networks, mode, dtype, options)
                rows += rows_of(group, mode, dtype, options, differ if mode == "training" else None)
                if row := runtimes_row(group, dtype, options):
                    in_runtimes.append(row)
                torch.compiler.reset()
    about = environment(options)
    print(f"{options.model}, {options.size} px, batch {options.batch}; img/s, median of {options.repeats} rounds")
    print("; ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print(as_table(rows, options))
    if in_runtimes:
        print(f"\n{runtimes_table(in_runtimes)}")
    elif options.runtimes and "inference" in options.modes and options.device == "cpu":
        print("no OpenVINO and no onnxruntime: pip install 'resnest-timm[bench]'", file=sys.stderr)
    if options.json:
        macs = {network: measure(network, options.size)[1] for network in (options.model, options.against)}
        settings = {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(options).items()}
        report = {"environment": about, "options": settings, "macs": macs, "rows": rows, "runtimes": in_runtimes}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["equal"] for row in [*rows, *in_runtimes]) else 1


if __name__ == "__main__":
    sys.exit(main())
