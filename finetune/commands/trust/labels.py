"""`python -m finetune labels`: which labels are probably wrong, by a probe that has not seen the images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.commands.trust import embed, shown
from finetune.console import log
from finetune.data.checks import exclusion
from finetune.data.dataset import LabelledImages
from finetune.errors import DatasetError
from finetune.runs.runfolder import write_text
from finetune.serving import study_page
from finetune.serving.study_page import Card, Section
from finetune.settings.data_verbs import LabelsOptions
from finetune.study import Suspect
from finetune.tasks import registry
from finetune.text import cell


@dataclass(frozen=True)
class Entry:
    """One image of the list.

    Attributes:
        split: Of the source.
        row: There.
        role: What the image is for.
        file: Its file's name, where it has one.
        given: Label.
        suggested: Label.
        margin: Probability of the given label less that of the suggested one; the lowest first.
        likely: Whether it is counted as an error.
    """

    split: str
    row: int
    role: str
    file: str
    given: str
    suggested: str
    margin: float
    likely: bool


def labels(options: LabelsOptions) -> list[Entry]:
    """Rank the images of all splits by how credible their labels are, and write what the flags ask for.

    Raises:
        FinetuneError: The dataset or the model cannot be read, or the task has no such check.
    """
    data = embed.opened(options)
    study = registry.study_of(registry.get(data.schema.task), "labels")
    values = embed.features(data, options.model, options)
    roles = list(data.splits.parts)
    targets = np.concatenate([data.splits.parts[role].targets for role in roles])
    try:
        found = study.suspects(np.concatenate([values[role] for role in roles]), targets, data.schema, options.seed)
    except ValueError as error:
        raise DatasetError(f"the labels cannot be judged: {error}") from error
    places = shown.Places.of(data)
    entries = _entries(places, found)
    likely = [entry for entry in entries if entry.likely]
    _write(options, data, places, found, entries)
    log.info(f"likely label errors: {len(likely)} of {len(entries)} images ({100 * len(likely) / len(entries):.1f} %)")
    return entries


def _entries(places: shown.Places, found: Sequence[Suspect]) -> list[Entry]:
    files = places.files([one.place for one in found])
    made = []
    for one, file in zip(found, files, strict=True):
        role, split, row = places.where(one.place)
        made.append(Entry(split, row, role, file, one.given, one.suggested, round(one.margin, 6), one.likely))
    return made


def _write(
    options: LabelsOptions,
    data: LabelledImages,
    places: shown.Places,
    found: Sequence[Suspect],
    entries: Sequence[Entry],
) -> None:
    likely = [entry for entry in entries if entry.likely]
    path = options.output or Path(f"labels-{shown.plain(data.source.id)}.html")
    first = [(one, entry) for one, entry in zip(found, entries, strict=True) if entry.likely][: options.show]
    cards = [
        Card(
            places.pictures([one.place]),
            f"{entry.given} \N{RIGHTWARDS ARROW} {entry.suggested}?",
            [f"{entry.split}, row {entry.row}{f', {entry.file}' if entry.file else ''}", f"margin {entry.margin:+.3f}"],
        )
        for one, entry in first
    ]
    lines = [
        f"{data.source.id}: {len(likely)} of {len(entries)} labels are probably wrong, by a linear probe on the "
        f"features of {options.model} that has not seen the image. The least credible first, given and suggested.",
        "Look at each: a rare view of a class, or two classes in one picture, looks like an error too.",
    ]
    if len(likely) > len(first):
        lines.append(f"The first {len(first)} are shown; --show shows more, --csv and --json have all.")
    section = Section("Likely label errors", [] if cards else ["None."], cards)
    write_text(path, study_page.page(f"Labels of {data.source.id}", lines, [section]))
    log.info(f"page: {path}")
    if options.csv:
        write_text(options.csv, _csv(entries))
        log.info(f"list: {options.csv}")
    if options.fix:
        rows: dict[str, dict[int, str]] = {}
        for entry in likely:
            rows.setdefault(entry.split, {})[entry.row] = f"label {entry.given}, probably {entry.suggested}"
        write_text(options.fix, exclusion.to_text(rows))
        log.info(f"rows: {options.fix}, for --exclude of train")


def _csv(entries: Sequence[Entry]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Entry.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in asdict(entry).items()} for entry in entries)
    return text.getvalue()


def report(entries: Sequence[Entry], options: LabelsOptions) -> None:
    """Print the worst, or the whole list as JSON."""
    if options.json:
        found: list[dict[str, Any]] = [asdict(entry) for entry in entries]
        likely = sum(entry.likely for entry in entries)
        print(json.dumps({"dataset": str(options.dataset), "images": len(found), "likely": likely, "labels": found}))
        return
    for entry in [entry for entry in entries if entry.likely][:10]:
        log.info(
            f"  {entry.split}, row {entry.row}: {entry.given!r}, probably {entry.suggested!r} ({entry.margin:+.3f})"
        )
