"""`python -m finetune compare`: models on the same images, and which of them is better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.commands import evaluate
from finetune.commands.trust import predicted
from finetune.console import log
from finetune.data.dataset import LabelledImages, whole_split
from finetune.errors import FinetuneError, RunFolderError, listing
from finetune.evaluation.comparing import compare as statistics
from finetune.evaluation.comparing import table
from finetune.evaluation.comparing.compare import Entry
from finetune.evaluation.comparing.judged import Comparing, Judged, one_of
from finetune.networks import models
from finetune.runs import model_files
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, write_text
from finetune.serving import compare_page
from finetune.settings.options import HardwareOptions, RunOptions
from finetune.settings.trust_verbs import CompareOptions
from finetune.task import Task
from finetune.tasks import registry

_ASIDE = {field.name for group in (HardwareOptions, RunOptions) for field in dataclasses.fields(group)}
"""Settings in which two trainings of one setting may differ: where they ran, where they went, and the seed."""
SHOWN = 24
"""Images on the page of those that one model alone gets right."""
SIDES = ("only_model", "only_reference", "ahead_model", "ahead_reference")
"""Where a comparison names images."""


@dataclass(frozen=True)
class Compared:
    """What `compare` found.

    Attributes:
        found: JSON values, see `finetune.evaluation.comparing.compare.compare`, and on which images.
        entries: What was compared.
        task: Of all models.
        data: The images as its test split; None where the dataset cannot be opened.
    """

    found: dict[str, Any]
    entries: Sequence[Entry]
    task: Task
    data: LabelledImages | None


def compare(options: CompareOptions) -> Compared:
    """Compare what the flags name.

    Raises:
        FinetuneError: A model or dataset does not exist, or their images differ.
    """
    options.check()
    return _on_dataset(options) if options.dataset else _on_their_own(options)


def write(options: CompareOptions) -> None:
    """Compare, and print a table or JSON; the page where it is asked for."""
    compared = compare(options)
    if options.page is not None:
        write_text(Path(options.page).expanduser(), compare_page.page(compared.found, _pictures(compared)))
    if options.json:
        print(json.dumps(_with_rows(compared)))
        return
    for line in table.lines(_with_rows(compared), compared.task.scores):
        log.info(line)
    if options.page is not None:
        log.info(f"page: {options.page}")


def _with_rows(compared: Compared) -> dict[str, Any]:
    """With the rows and files of images beside or in place of where they stand in the split, where those are known."""
    rows = [
        comparison | {side: _located_images(compared.data, comparison[side]) for side in SIDES if side in comparison}
        for comparison in compared.found["comparisons"]
    ]
    return compared.found | {"comparisons": rows}


def _located_images(data: LabelledImages | None, found: Sequence[int | Mapping[str, Any]]) -> list[Any]:
    """Images as JSON has them: places of `only_...`, or dictionaries of `ahead_...`."""
    if data is None or not found:
        return list(found)
    entries = [dict(one) if isinstance(one, Mapping) else {"place": one} for one in found]
    places = [entry.pop("place") for entry in entries]
    rows, files = data.splits.parts["test"].rows, data.files("test", places)
    return [
        {"row": int(rows[place]), "file": file} | entry
        for place, file, entry in zip(places, files, entries, strict=True)
    ]


# --- runs on their own test images ---


@dataclass(frozen=True)
class _Run:
    name: str
    folder: RunFolder
    result: RunResult
    found: Judged


def _on_their_own(options: CompareOptions) -> Compared:
    opened = [(name, *predicted.opened(name)) for name in options.models]
    task = _one_task([registry.get(result.task) for _, _, result in opened])
    first_folder, first = opened[0][1:]
    same = [predicted.test_images(folder, result) for _, folder, result in opened]
    common = None
    if len(set(same)) > 1:
        if not options.common:
            others = [name for (name, _, _), images in zip(opened, same, strict=True) if images != same[0]]
            raise RunFolderError(
                f"the test images of {listing(others)} are not those of {options.models[0]}: --common compares on "
                "the images that are in the test split of all, --dataset on other images"
            )
        common = _common(opened)
    runs = []
    for place, (name, folder, result) in enumerate(opened):
        _check_classes(first, result, name)
        found = predicted.of_run(
            folder,
            result,
            task,
            accelerator=options.accelerator,
            batch_size=options.batch_size,
            workers=options.workers,
        )
        count = result.dataset["splits"]["test"]
        weighed = predicted.judged(task, found, result.dataset["classes"], count, result.evaluation)
        runs.append(_Run(name, folder, result, weighed if common is None else weighed.of(common[place])))
    entries = _by_setting(runs)
    if len(entries) < 2:
        raise RunFolderError(
            f"{', '.join(options.models)} are {len(runs)} seeds of one setting: there is nothing to compare them with"
        )
    data = _reopened(first_folder, first)
    if data is not None and common is not None:
        part = data.splits.parts["test"]
        kept = replace(part, rows=part.rows[common[0]], targets=part.targets[common[0]])
        data.splits.parts["test"] = kept
    source = {"dataset": first.dataset["id"], "split": "test", "common": common is not None}
    found = source | statistics.compare(entries, task.scores, first.seed)
    return Compared(found | {"remarks": _remarks(runs, entries)}, entries, task, data)


def _one_task(tasks: Sequence[Task]) -> Task:
    names = sorted({task.name for task in tasks})
    if len(names) > 1:
        raise RunFolderError(f"models of different tasks ({', '.join(names)}) cannot be compared: give models of one")
    return tasks[0]


def _check_classes(first: RunResult, other: RunResult, name: str) -> None:
    if list(first.dataset["classes"]) != list(other.dataset["classes"]):
        raise RunFolderError(f"{name} was trained on other classes than the first: compare them on one --dataset")


def _common(opened: Sequence[tuple[str, RunFolder, RunResult]]) -> list[np.ndarray]:
    """For each run the places, in its test split, of the images that are in all, in the order of the first.

    Raises:
        RunFolderError: There are none, or the runs' datasets differ.
    """
    keys = ("id", "config", "revision")
    rows = []
    for name, folder, result in opened:
        entry = model_files.check_splits(folder.root)["test"]
        count = result.dataset["splits"]["test"]
        where = (*(result.dataset.get(key) for key in keys), entry["source"])
        rows.append((where, np.arange(count) if entry["rows"] == "all" else np.array(entry["rows"], dtype=np.int64)))
        if where != rows[0][0]:
            raise RunFolderError(f"{name} was tested on another dataset or split than {opened[0][0]}: give --dataset")
    shared = rows[0][1]
    for _, of in rows[1:]:
        shared = shared[np.isin(shared, of)]
    if not len(shared):
        raise RunFolderError("no image is in the test split of all runs: compare them on another --dataset")
    return [_places(of, shared) for _, of in rows]


def _places(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(rows)
    found: np.ndarray = order[np.searchsorted(rows[order], wanted)]
    return found


def _by_setting(runs: Sequence[_Run]) -> list[Entry]:
    """Runs that differ in their seed alone are one entry, named after its first run."""
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        settings = {name: value for name, value in run.folder.settings().items() if name not in _ASIDE}
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(run)
    entries = []
    for group in groups.values():
        if len({run.result.seed for run in group}) < len(group):  # a run and its copy, or the same made again
            entries += [Entry(run.name, [run.found]) for run in group]
        else:
            name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"
            entries.append(Entry(name, [run.found for run in group]))
    return entries


def _remarks(runs: Sequence[_Run], entries: Sequence[Entry]) -> list[str]:
    said = []
    if any(len(entry.models) == 1 for entry in entries):
        said.append("a setting of one training: another seed may do better or worse; give several runs of each")
    if any(len(entry.models) == 2 for entry in entries):
        said.append("two seeds tell little of how far seeds lie apart: the intervals are wide for it")
    return said


def _reopened(folder: RunFolder, result: RunResult) -> LabelledImages | None:
    """The images themselves, where they still are: numbers need none."""
    try:
        return evaluate.reopen(folder, result, "test")
    except FinetuneError as error:
        log.info(f"no pictures and file names: {error}")
        return None


# --- any models on one dataset ---


def _on_dataset(options: CompareOptions) -> Compared:
    names = [_located(name) for name in options.models]
    task = _one_task([registry.of_model(name) for name in names])
    data = whole_split(
        options.dataset or "",
        task,
        split=options.split,
        dataset_config=options.dataset_config,
        revision=options.revision,
        image_column=options.image_column,
        target_column=options.target_column,
    )
    entries = [
        Entry(shown, [_said(name, task, data, options)]) for shown, name in zip(options.models, names, strict=True)
    ]
    remarks = [line for name in options.models if (line := _seen(name, data))]
    part = data.splits.parts["test"]
    source = {"dataset": data.source.id, "split": part.source, "common": False}
    return Compared(source | statistics.compare(entries, task.scores) | {"remarks": remarks}, entries, task, data)


def _located(name: str) -> str:
    run = RunFolder(Path(name).expanduser().absolute())
    return f"local-dir:{run.model}" if run.result.is_file() else name


def _said(name: str, task: Task, data: LabelledImages, options: CompareOptions) -> Judged:
    log.info(f"evaluating {name}")
    network = models.build(name, None, pretrained=True) if not name.startswith("local-dir:") else _loaded(name, task)
    target, outputs, _ = task.aligned(data, network)
    found = predicted.compute(task, target, network, outputs, options.accelerator, options.batch_size, options.workers)
    part = data.splits.parts["test"]
    if not isinstance(task, Comparing):
        return predicted.judged(task, found, (), len(part.rows), {})
    own, names = task.judged(found, task.outputs(network), task.decisions(network)), data.schema.classes
    if part.targets.ndim > 1 or not names:
        return own
    # One class an image, as the dataset has it: each model numbers its outputs in its own way.
    true = [names[target] for target in part.targets]
    return replace(own, true=true, shows=one_of(part.targets, len(names)), names=names)


def _loaded(name: str, task: Task) -> Any:
    return task.load(Path(name.removeprefix("local-dir:")))


def _seen(name: str, data: LabelledImages) -> str | None:
    """That some of the images are a run's own training images, where that can be told."""
    folder = RunFolder(Path(name).expanduser().absolute())
    if not folder.result.is_file():
        return None
    result, part = RunResult.load(folder.result), data.splits.parts["test"]
    same = (result.dataset["id"], result.dataset.get("config")) == (data.source.id, data.source.config)
    entry = model_files.check_splits(folder.root)["train"]
    if not same or entry["source"] != part.source:
        return None
    count = len(part.rows) if entry["rows"] == "all" else int(np.isin(part.rows, entry["rows"]).sum())
    return (
        f"warning: {count} of these images are training images of {name}: its scores are flattered" if count else None
    )


# --- what is shown ---


def _pictures(compared: Compared) -> list[dict[str, list[dict[str, Any]]]]:
    """Of each comparison the images that one alone gets right, or is the furthest ahead on, as the page takes them."""
    reference, *others = compared.entries
    return [
        {side: _shown(compared, reference, other, row[side][:SHOWN]) for side in SIDES if side in row}
        for other, row in zip(others, compared.found["comparisons"], strict=True)
    ]


def _shown(
    compared: Compared, reference: Entry, other: Entry, found: Sequence[int | Mapping[str, Any]]
) -> list[dict[str, Any]]:
    if compared.data is None or not found:
        return []
    places = [int(one["place"]) if isinstance(one, Mapping) else one for one in found]
    values, files = compared.data.values("test", places), compared.data.files("test", places)
    shown = []
    for one, place, value, file in zip(found, places, values, files, strict=True):
        said = {"reference": reference.first.said[place], "model": other.first.said[place]}
        scores = {side: one[side] for side in said} if isinstance(one, Mapping) else {}
        name = file or f"row {int(compared.data.splits.parts['test'].rows[place])}"
        shown.append({"image": value, "file": name, "class": reference.first.true[place], **said, "scores": scores})
    return shown
