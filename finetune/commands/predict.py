"""`python -m finetune predict`: images in, one line each out."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from finetune.console import log
from finetune.errors import ConfigError, DatasetError, Interrupted, RunFolderError
from finetune.export import formats
from finetune.loading.allocator import freed_memory_kept
from finetune.serving import inputs as predict_inputs
from finetune.serving.inputs import Batch, Inputs
from finetune.settings.verbs import PredictOptions, output_problems
from finetune.task import Answers, Record
from finetune.tasks import registry
from finetune.text import cell, visible


def predict(options: PredictOptions) -> Iterator[list[Record]]:
    """Say what a model answers to what the flags name.

    Yields:
        The records of each batch, in the order of the input: `image` or `split` and `row`; then what the task answers,
        for classification `label` (None where it abstains), `confidence`, `abstained` and `top`, a list of `label` and
        `probability`; or else `error`.

    Raises:
        FinetuneError: The model or the dataset does not exist, or cannot be read.
    """
    answers, inputs = _prepare(options)
    yield from _answer(answers, inputs, options)


def _prepare(options: PredictOptions) -> tuple[Answers, Inputs]:
    """Load the model and list the images."""
    options.check()
    listed = predict_inputs.from_paths(options.paths) if options.paths else None
    task = registry.of_model(options.model)
    answers = task.answers(options.model, options, None if listed is None else len(listed.values))
    _check_output(options, answers)
    inputs = _of_dataset(options) if listed is None else listed
    count = len(inputs.values)
    if count == 0:
        raise DatasetError(f"split {options.split!r} holds no images")
    first, *others = answers.says
    log.info(f"{count} images, {first}")
    for line in others:
        log.info(line)
    return answers, inputs


def _check_output(options: PredictOptions, answers: Answers) -> None:
    """Raise where a folder is given for a file.

    Raises:
        ConfigError: It is, or a flag of masks or objects where there are none.
    """
    if options.format == "coco" and not hasattr(answers, "coco"):
        raise ConfigError("--format coco is for models that find objects: take json, csv or table")
    if hasattr(answers, "keep"):
        return
    if options.overlay:
        raise ConfigError("--overlay is for models of semantic segmentation and detection: leave it out")
    problems = output_problems(Path(options.output)) if options.output is not None else []
    if problems:
        raise ConfigError("; ".join(problems))


def _answer(answers: Answers, inputs: Inputs, options: PredictOptions) -> Iterator[list[Record]]:
    with freed_memory_kept():
        for batch in predict_inputs.loader(inputs, answers.transform, options.batch_size, options.workers):
            yield _records(answers, inputs, batch, options)


def _of_dataset(options: PredictOptions) -> Inputs:
    from finetune.commands import predict_rows  # with `datasets` and Lightning, seconds that files do not need

    if options.dataset:
        return predict_rows.from_dataset(
            options.dataset, options.split, options.dataset_config, options.revision, options.image_column
        )
    if formats.of_file(options.model):
        raise RunFolderError(
            f"--split without --dataset is for a run, got the file {options.model}: give the run's folder"
        )
    return predict_rows.from_run(Path(options.model), options.split)


def _records(answers: Answers, inputs: Inputs, batch: Batch, options: PredictOptions) -> list[Record]:
    found: dict[int, Record] = {row: {"error": reason} for row, reason in batch.problems}
    if batch.rows:
        found |= dict(zip(batch.rows, answers.records(batch.pixels, options), strict=True))
    keep = getattr(answers, "keep", None)  # of a task whose answers are files
    named = [(inputs.names[row], found[row]) for row in sorted(found)]
    return [name | (keep(name, of) if keep and "error" not in of else of) for name, of in named]


def write(options: PredictOptions) -> None:
    """Predict, and write a line for each image as soon as its batch is done.

    Raises:
        DatasetError: No image could be read.
        Interrupted: By Ctrl-C; the lines on standard output are whole, and no file is left.
    """
    counts = dict.fromkeys(("images", "error", "abstained"), 0)
    answers, inputs = _prepare(options)
    start = time.perf_counter()
    try:
        with _opened(None if hasattr(answers, "keep") else options.output) as stream:
            whole: list[Record] | None = [] if options.format == "coco" else None
            line = _lines(stream, options, inputs, answers) if whole is None else whole.append
            for records in _answer(answers, inputs, options):
                for record in records:
                    line(record)
                    _report(record)
                    counts = {name: n + bool(name == "images" or record.get(name)) for name, n in counts.items()}
                stream.flush()
            if counts["error"] == counts["images"]:
                raise DatasetError("none of the images could be read: see the reasons above")
            if whole is not None:
                _document(stream, answers, whole)
    except KeyboardInterrupt:
        left = "no file was written" if options.output else "the lines on standard output are whole"
        raise Interrupted(f"stopped after {counts['images']} of {len(inputs.values)} images; {left}") from None
    except BrokenPipeError:  # whoever reads the lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    speed = counts["images"] / (time.perf_counter() - start)
    abstained = f", {counts['abstained']} abstained" if "abstained" in answers.columns(options) else ""
    log.info(f"{counts['images']} images: {counts['error']} could not be read{abstained}; {speed:.1f} images/s")


def _report(record: Record) -> None:
    if "error" in record:
        log.info(f"cannot read {_name(record)}: {record['error']}")


@contextmanager
def _opened(path: str | Path | None) -> Iterator[TextIO]:
    """A file that appears whole or not at all, or standard output."""
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):  # a console may lack a letter of a name
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    path = Path(path).expanduser()
    temporary = path.with_name(f"{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(stream: TextIO, options: PredictOptions, inputs: Inputs, answers: Answers) -> Callable[[Record], object]:
    """What writes a record, in the format that is asked for or fits who reads it."""
    watched = options.output is None and stream.isatty()
    form = options.format or ("table" if watched else "json")
    if form == "csv":
        return _csv_lines(stream, [*inputs.names[0], *answers.columns(options)], answers)
    return _table_lines(stream, inputs, answers) if form == "table" else _json_lines(stream)


def _table_lines(stream: TextIO, inputs: Inputs, answers: Answers) -> Callable[[Record], object]:
    """The name of an image, and its answer in short."""
    width = max(len(_name(name)) for name in inputs.names)

    def write(record: Record) -> None:
        said = f"error: {record['error']}" if "error" in record else answers.brief(record)
        stream.write(f"{_encodable(_name(record)):{width}}  {said}\n")

    return write


def _name(record: Record) -> str:
    return str(record.get("image") or f"{record['split']}, row {record['row']}")


def _json_lines(stream: TextIO) -> Callable[[Record], object]:
    """One JSON object a line; ASCII, so that no console's encoding matters."""
    return lambda record: stream.write(json.dumps(record) + "\n")


def _csv_lines(stream: TextIO, columns: list[str], answers: Answers) -> Callable[[Record], object]:
    """The same in columns; text that a spreadsheet would compute begins with an apostrophe, and a path with a dot."""
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    shown = stream.isatty()

    def write(record: Record) -> None:
        row = {name: _encodable(value) for name, value in answers.flat(record).items()}
        if cell(row.get("image")) != row.get("image"):  # as a path the same, and no formula
            row["image"] = os.path.join(".", str(row["image"]))
        writer.writerow(
            {name: visible(value) if shown and isinstance(value, str) else cell(value) for name, value in row.items()}
        )

    return write


def _document(stream: TextIO, answers: Any, records: list[Record]) -> None:
    """All records as one JSON document; ASCII as above."""
    json.dump(answers.coco(records), stream)
    stream.write("\n")


def _encodable(value: Any) -> Any:
    """A file's name may have bytes that are no text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
