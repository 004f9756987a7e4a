"""`python -m finetune doctor`: what is wrong with a dataset, before any training."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from finetune.commands.trust import advice, embed, shown
from finetune.console import log
from finetune.data.checks import copies, exclusion, grouping, looks, odd
from finetune.data.checks.copies import Copies
from finetune.data.checks.findings import Finding, Severity
from finetune.data.checks.inspecting import Inspecting, Inspection
from finetune.data.dataset import LabelledImages
from finetune.errors import SeriousFindingError
from finetune.networks import neighbours
from finetune.runs.runfolder import write_text
from finetune.serving import study_page
from finetune.serving.study_page import Card, Section
from finetune.settings.data_verbs import DoctorOptions
from finetune.tasks import registry

SHOWN = 60
"""Pairs of a finding on the page at most."""
DAMAGED = 0.05
"""Share of undecodable images from which on it is serious."""
_HINTS = 3  # nearest neighbours in features that are compared closely


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        data: The dataset.
        places: Its images in one row.
        inspected: Its targets, where the task looks at them one by one.
        findings: The serious ones first.
        leaks: Images of test that have a copy in train, and what that share is; scores with and without where known.
        leave_out: By split of the source: row -> why.
        seconds: That it took.
    """

    data: LabelledImages
    places: shown.Places
    inspected: Inspection | None
    findings: Sequence[Finding]
    leaks: dict[str, Any]
    leave_out: dict[str, dict[int, str]]
    seconds: float

    @property
    def serious(self) -> list[Finding]:
        """What makes numbers untrue."""
        return [one for one in self.findings if one.severity == "serious"]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        found = [
            one.to_json([[self.places.where(place)[1:] for place in of] for of in one.images]) for one in self.findings
        ]
        return {
            "dataset": self.data.source.id,
            "task": self.data.schema.task,
            "splits": self.data.splits.counts(),
            "serious": len(self.serious),
            "findings": found,
            "leaks": self.leaks,
            "leave_out": {split: sorted(rows) for split, rows in self.leave_out.items()},
            "seconds": round(self.seconds, 3),
        }


def doctor(options: DoctorOptions) -> Diagnosis:
    """Look at everything, and write the page and what the flags ask for.

    Raises:
        FinetuneError: The dataset or the model cannot be read.
    """
    began = time.perf_counter()
    data = embed.opened(options)
    places = shown.Places.of(data)
    seen = looks.joined(
        [
            looks.look(data.source.splits[part.source], data.schema.image_column, part.rows, data.max_image_pixels)
            for part in data.splits.parts.values()
        ]
    )
    log.info(f"looked at {len(seen)} images in {time.perf_counter() - began:.1f} s")
    roles = np.array([role for role, count in data.splits.counts().items() for _ in range(count)])
    targets = np.concatenate([part.targets for part in data.splits.parts.values()])
    values = embed.features(data, options.model, options) if options.model else {}
    task = registry.get(data.schema.task)
    inspected = task.inspection(data) if isinstance(task, Inspecting) else None
    found = copies.find(seen, roles, targets, _hints(values), differ=inspected.differ if inspected else None)
    leaks = _leaks(found, data, values, options)
    findings = [
        *_reading(data),
        *_copied(found, data, places, leaks),
        *odd.find(seen),
        *(inspected.findings() if inspected else ()),
        *_grouped(data, places, targets, roles),
        *(advice.of(options.model, data, options) if options.model else ()),
    ]
    order: dict[Severity, int] = {"serious": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda one: order[one.severity])
    leave_out: dict[str, dict[int, str]] = {}
    for place, why in copies.to_leave_out(found).items():
        _, split, row = places.where(place)
        leave_out.setdefault(split, {})[row] = why
    made = Diagnosis(data, places, inspected, findings, leaks, leave_out, time.perf_counter() - began)
    _write(made, options)
    return made


def _hints(values: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Pairs that are close in features."""
    if not values:
        return []
    close = neighbours.nearest(np.concatenate(list(values.values())), _HINTS)
    return [(place, int(other)) for place, others in enumerate(close) for other in others]


def _reading(data: LabelledImages) -> Iterator[Finding]:
    """Task, columns, classes, what was left out."""
    yield Finding("task", "note", f"{data.schema.task}: {data.schema.described()}")
    counts = ", ".join(f"{role} {count}" for role, count in data.splits.counts().items())
    carved = f"; {' and '.join(data.splits.held_out)} held out of train" if data.splits.held_out else ""
    yield Finding("splits", "note", f"images: {counts}{carved}")
    for line in data.schema.remarks(data.splits.parts["train"].targets):
        severity: Severity = "warning" if line.startswith("warning: ") else "note"
        yield Finding("classes", severity, line.removeprefix("warning: "))
    bad = [image for images in data.undecodable.values() for image in images]
    if bad:
        share = len(bad) / (len(bad) + sum(data.splits.counts().values()))
        kinds = Counter(re.sub(r"(?<= )'[^']*[/\\][^']*'|\d+", "...", image.reason) for image in bad)
        lines = tuple(f"{count}: {reason}" for reason, count in kinds.most_common(8))
        yield Finding("undecodable", "serious" if share > DAMAGED else "warning", f"{len(bad)} do not decode", lines)
    for name, count in data.unlabelled.items():
        yield Finding("unlabelled", "note", f"{count} images of {name!r} have no label")


def _copied(found: Copies, data: LabelledImages, places: shown.Places, leaks: dict[str, Any]) -> Iterator[Finding]:
    """Contradictions, leaks, and copies within a split."""
    across, numbers = found.across, np.arange(len(found.pairs))
    yield from _pairs("contradiction", "serious", "{} pairs of copies with different targets", found, data, places,
                      numbers[found.contradicting])  # fmt: skip
    if leaks["images"]:
        title = f"{leaks['images']} of {leaks['of']} test images ({100 * leaks['share']:.2f} %) have a copy in train"
        yield Finding("leak", "serious", title, tuple(leaks["lines"]))
    yield from _pairs("across", "serious" if leaks["images"] else "warning", "{} pairs of copies in different splits",
                      found, data, places, numbers[across & ~found.contradicting])  # fmt: skip
    yield from _pairs("copies", "warning", "{} pairs of copies within a split", found, data, places,
                      numbers[~across & ~found.contradicting])  # fmt: skip


def _pairs(
    key: str,
    severity: Severity,
    title: str,
    found: Copies,
    data: LabelledImages,
    places: shown.Places,
    numbers: np.ndarray,
) -> Iterator[Finding]:
    if not len(numbers):
        return
    pairs = [found.pairs[number] for number in numbers.tolist()]
    kinds = Counter(
        "byte for byte" if p.kind == "bytes" else "pixel for pixel" if p.kind == "pixels" else "near" for p in pairs
    )
    captions = []
    for pair in pairs:
        ends = []
        for place in (pair.first, pair.second):
            _, split, row = places.where(place)
            ends.append(f"{split}, row {row}: {named(data, places, place)}")
        captions.append(f"{copies.words(pair)}; {ends[0]}; {ends[1]}")
    yield Finding(
        key,
        severity,
        title.format(len(pairs)),
        (", ".join(f"{count} {kind}" for kind, count in kinds.items()),),
        tuple((pair.first, pair.second) for pair in pairs),
        tuple(captions),
    )


def named(data: LabelledImages, places: shown.Places, place: int) -> str:
    """The target of an image, for people, as far as the task says."""
    task = registry.get(data.schema.task)
    if isinstance(task, Inspecting):
        return task.inspection(data).named(place)
    role, within = places.within(place)
    target = data.splits.parts[role].targets[within]
    study = getattr(task, "study", None)
    return str(study.named(data.schema, target)) if study else str(target)[:60]


def _leaks(
    found: Copies, data: LabelledImages, values: dict[str, np.ndarray], options: DoctorOptions
) -> dict[str, Any]:
    """How many test images training has seen, and what that does to the number of a linear probe."""
    leaked = found.leaked()
    of = len(data.splits.parts["test"].rows)
    entry: dict[str, Any] = {"images": len(leaked), "of": of, "share": len(leaked) / of, "lines": []}
    study = getattr(registry.get(data.schema.task), "study", None)
    if not len(leaked) or not values or study is None or len(leaked) == of:
        return entry
    targets = {role: part.targets for role, part in data.splits.parts.items()}
    bar = next(iter(study.bars(values, targets, data.schema, options.seed)))
    kept = np.ones(of, dtype=bool)
    kept[leaked - int(shown.Places.of(data).starts[list(data.splits.parts).index("test")])] = False
    score = registry.get(data.schema.task).scores[0]
    entry["probe"] = {"with": float(bar.each.mean()), "without": float(bar.each[kept].mean())}
    entry["lines"].append(
        f"a linear probe on {options.model}: {score.title} {bar.each.mean():.4f} on test, {bar.each[kept].mean():.4f} "
        "without the leaked images"
    )
    return entry


def _grouped(data: LabelledImages, places: shown.Places, targets: np.ndarray, roles: np.ndarray) -> Iterator[Finding]:
    """Signs of groups in columns and names."""
    shared = set.intersection(*(set(data.encoded(role).column_names) for role in data.splits.parts))
    own = {data.schema.image_column, *data.schema.columns}
    names = [name for name in sorted(shared - own) if grouping.COLUMNS.search(name)]
    columns: dict[str, list[object]] = {name: [] for name in names}
    for role, part in data.splits.parts.items():
        table = data.encoded(role).select_columns(names) if names else None
        for name in names:
            assert table is not None
            values = table[name][:]
            columns[name] += [values[int(row)] for row in part.rows]
    yield from grouping.in_columns(columns, roles)
    yield from grouping.in_names(places.files(range(len(places))), targets, roles)


def _write(found: Diagnosis, options: DoctorOptions) -> None:
    data = found.data
    path = options.output or Path(f"doctor-{shown.plain(data.source.id)}.html")
    serious, warnings = len(found.serious), sum(one.severity == "warning" for one in found.findings)
    head = [
        f"{sum(data.splits.counts().values()):,} images, {serious} serious finding{'' if serious == 1 else 's'}, "
        f"{warnings} warning{'' if warnings == 1 else 's'}."
    ]
    sections = [_section(one, found) for one in found.findings if one.severity != "note" or one.images]
    if read := [line for one in found.findings if one.severity == "note" and not one.images for line in _told(one)]:
        sections.append(Section("What was read", read))
    write_text(path, study_page.page(f"Doctor: {data.source.id}", head, sections))
    log.info(f"page: {path}")
    if options.fix:
        write_text(options.fix, exclusion.to_text(found.leave_out))
        count = sum(map(len, found.leave_out.values()))
        log.info(f"{count} rows that had better be left out: {options.fix}, for --exclude of train")


def _told(one: Finding) -> list[str]:
    """A note, which needs no heading of its own; what begins with a task's or a model's name stays as it is."""
    return [one.title if one.key in ("task", "advice") else f"{one.title[:1].upper()}{one.title[1:]}", *one.lines]


def _section(one: Finding, found: Diagnosis) -> Section:
    cards = []
    for number, of in enumerate(one.images[:SHOWN]):
        caption = one.captions[number] if one.captions else ""
        head, *rest = caption.split("; ") if caption else [named(found.data, found.places, of[0])]
        _, split, row = found.places.where(of[0])
        cards.append(Card(_pictures(of, found), head, rest or [f"{split}, row {row}"]))
    more = [f"{len(one.images) - SHOWN} more are in --json"] if len(one.images) > SHOWN else []
    title = one.title[:1].upper() + one.title[1:]
    return Section(title, [*one.lines, *more], cards, one.severity == "serious")


def _pictures(of: Sequence[int], found: Diagnosis) -> list[Image]:
    """Images; with boxes or masks in them where the task has those, for what is odd may be in them."""
    pictures = found.places.pictures(of)
    if found.inspected is None:
        return pictures
    return [found.inspected.drawn(*pair) for pair in zip(of, pictures, strict=True)]


def report(found: Diagnosis, options: DoctorOptions) -> None:
    """Print the findings, or JSON.

    Raises:
        SeriousFindingError: There is something serious; after all was printed.
    """
    if options.json:
        print(json.dumps(found.to_json()))
    else:
        log.info("")
        for one in found.findings:
            log.info(
                f"{one.severity if one.severity != 'note' else ''}{': ' if one.severity != 'note' else ''}{one.title}"
            )
            for line in (*one.lines, *one.captions[:5]):
                log.info(f"  {line}")
    if found.serious:
        raise SeriousFindingError(
            f"{len(found.serious)} serious: {'; '.join(one.title for one in found.serious)}. Look at the page"
            f"{'' if options.fix else '; --fix FILE writes the rows to leave out'}"
        )
