"""`python -m finetune reproduce`: what has changed since a run, and whether it can be made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from finetune.commands import train
from finetune.commands.trust import predicted
from finetune.console import log
from finetune.data.dataset import TARGETS, LabelledImages
from finetune.errors import DatasetError, NotReproducedError, RunFolderError
from finetune.evaluation.comparing import compare as statistics
from finetune.evaluation.comparing.compare import TIE, Entry
from finetune.loading import choose
from finetune.runs import reading, seal
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.settings.config import RunConfig
from finetune.settings.trust_verbs import ReproduceOptions
from finetune.task import Task
from finetune.tasks import registry
from finetune.training import resume

BITWISE, WITHIN, NOT = "bitwise", "within the interval", "not reproduced"


def reproduce(options: ReproduceOptions) -> dict[str, Any]:
    """Compare a run with its lock.json, make it again unless only that is asked for, and compare the two.

    Returns:
        JSON values: `run`, `drift` (a line each), and where it was made again `again`, `verdict`, `scores`,
        `difference`.

    Raises:
        FinetuneError: There is no such run, or its dataset is gone.
    """
    options.check()
    folder, result = predicted.opened(options.run)
    lock, task = _lock(folder), registry.get(result.task)
    config = _config(folder, lock, options)
    data = choose.load(config, registry.reader(config.task))
    drift = [*_files(folder), *_packages(lock), *_images(lock, data), *_weights(lock, config, task, data)]
    found: dict[str, Any] = {"run": str(folder.path), "drift": drift}
    if options.check_only:
        return found
    for line in drift:
        log.info(f"changed since the run: {line}")
    output = options.output or folder.path.with_name(f"{folder.path.name}-again")
    again = train.run(dataclasses.replace(config, output=Path(output)))
    return found | {"again": str(Path(output).absolute())} | _verdict(folder, result, again, task)


def write(options: ReproduceOptions) -> None:
    """Reproduce, and say what came out.

    Raises:
        NotReproducedError: The second run is neither the same nor within the interval; or files of the first are not
            those that it wrote.
    """
    found = reproduce(options)
    if options.json:
        print(json.dumps(found))
    else:
        for line in _lines(found):
            log.info(line)
    if found.get("verdict") == NOT:
        raise NotReproducedError(f"{found['run']} is not reproduced: see the differences above")


def _lock(folder: RunFolder) -> dict[str, Any]:
    if not folder.lock.is_file():
        raise RunFolderError(
            f"{folder.path} has no lock.json, for an earlier version made it: what it was made from cannot be compared"
        )
    return reading.read(folder.lock, reading.LOCK)


def _config(folder: RunFolder, lock: Mapping[str, Any], options: ReproduceOptions) -> RunConfig:
    """The settings of the run, as it began.

    Raises:
        DatasetError: Its dataset was in memory.
    """
    known = {field.name for field in dataclasses.fields(RunConfig)}
    settings = {name: value for name, value in lock["settings"].items() if name in known}
    if options.dataset is not None:
        settings["dataset"] = options.dataset
    if settings.get("dataset") is None:
        raise DatasetError(
            f"the run in {folder.path} was made from a dataset in memory: save it (`save_to_disk`), and give --dataset"
        )
    settings["curve"] = False  # the exported model is what is compared, and it is the same
    if options.accelerator is not None:
        settings["accelerator"] = options.accelerator
    return RunConfig(**settings).resolved()


# --- drift ---


def _files(folder: RunFolder) -> Iterator[str]:
    """Files of the run that are missing, or not as it wrote them."""
    if not reading.whole(folder.completed, reading.COMPLETE):
        yield "the run has no whole complete.json: its files cannot be compared"
        return
    for name, digest in reading.read(folder.completed, reading.COMPLETE)["files"].items():
        path = folder.root / name
        if not path.is_file():
            yield f"file {name}: missing"
        elif reading.sha256(path) != digest:
            yield f"file {name}: not as the run wrote it"


def _packages(lock: Mapping[str, Any]) -> Iterator[str]:
    now = seal.packages()
    for name, before in lock["packages"].items():
        if now.get(name) != before:
            yield f"{name}: {before}, now {now.get(name, 'not installed')}"


def _images(lock: Mapping[str, Any], data: LabelledImages) -> Iterator[str]:
    for name, now in data.fingerprints().items():
        before = lock["data"].get(name)
        if before != now and (before is not None or not name.startswith(TARGETS)):  # which older runs do not have
            yield f"{name}: {before}, now {now}"


def _weights(lock: Mapping[str, Any], config: RunConfig, task: Task, data: LabelledImages) -> Iterator[str]:
    """Whether the network begins with the same weights."""
    first = config.seed
    L.seed_everything(first, verbose=False)
    model = task.network(config, data.schema, config.pretrained)
    before, now = lock["weights"].get("begin_sha256"), resume.weights(model)
    if before != now:
        yield f"weights at the beginning: SHA-256 {str(before)[:12]}, now {now[:12]}"


# --- the second run ---


def _verdict(folder: RunFolder, result: RunResult, again: RunResult, task: Task) -> dict[str, Any]:
    """How near the second run comes to the first."""
    assert again.folder is not None  # it was just written
    second = RunFolder(again.folder)
    pairs = {
        key: {"run": value, "again": again.metrics["test"].get(key)} for key, value in result.metrics["test"].items()
    }
    found: dict[str, Any] = {"scores": pairs}
    files = [(run.model / "model.safetensors", run.model / "config.json") for run in (folder, second)]
    if all(reading.sha256(ours) == reading.sha256(theirs) for ours, theirs in zip(*files, strict=True)):
        return found | {"verdict": BITWISE}
    return found | _difference(folder, result, second, again, task)


def _difference(
    folder: RunFolder, result: RunResult, second: RunFolder, again: RunResult, task: Task
) -> dict[str, Any]:
    """Of two runs that are not bitwise the same, whether one is shown to be better than the other."""
    same = predicted.test_images(folder, result) == predicted.test_images(second, again)
    first = task.scores[0]
    ends = result.evaluation.get("intervals", {}).get("test", {}).get(first.key)
    inside = ends is not None and ends[0] <= again.metrics["test"][first.key] <= ends[1]
    if not same:
        return {"verdict": WITHIN if same and inside else NOT, "difference": None}
    models = [
        predicted.judged(
            task,
            predicted.of_run(run, of, task),
            of.dataset["classes"],
            of.dataset["splits"]["test"],
            of.evaluation,
        )
        for run, of in ((folder, result), (second, again))
    ]
    entries = [Entry(name, [model]) for name, model in zip(("the run", "again"), models, strict=True)]
    (compared,) = statistics.compare(entries, task.scores, result.seed)["comparisons"]
    found = compared["metrics"][first.key]
    return {"verdict": WITHIN if found["verdict"] == TIE else NOT, "difference": found}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    drift = found["drift"]
    yield f"{len(drift)} things have changed since the run" if drift else "nothing has changed since the run"
    if "verdict" not in found:
        yield from (f"  {line}" for line in drift)
        return
    for key, pair in found["scores"].items():
        yield f"{key:20}{pair['run']:>11.6f}{pair['again']:>11.6f}"
    yield f"reproduced: {found['verdict']}" if found["verdict"] != NOT else NOT
    if difference := found.get("difference"):
        low, high = difference["interval"]
        yield f"paired difference {difference['difference']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]"
    yield f"the run made again: {found['again']}"
