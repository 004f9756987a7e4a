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

from finetune import export
from finetune.console import log
from finetune.errors import DatasetError, Interrupted, RunFolderError
from finetune.loading.allocator import freed_memory_kept
from finetune.serving import inputs as predict_inputs
from finetune.serving.inputs import Batch, Inputs
from finetune.serving.predictor import Prediction, Predictor
from finetune.settings.verbs import PredictOptions

Record = dict[str, Any]


def predict(options: PredictOptions) -> Iterator[list[Record]]:
    """Classify what the flags name.

    Yields:
        The records of each batch, in the order of the input: `image` or `split` and `row`; then `label` (None where it
        abstains), `confidence`, `abstained` and `top`, a list of `label` and `probability`; or else `error`.

    Raises:
        FinetuneError: The model or the dataset does not exist, or cannot be read.
    """
    predictor, inputs = _prepare(options)
    yield from _classify(predictor, inputs, options)


def _prepare(options: PredictOptions) -> tuple[Predictor, Inputs]:
    """Load the model and list the images."""
    options.check()
    listed = predict_inputs.from_paths(options.paths) if options.paths else None
    predictor = Predictor(
        options.model,
        accelerator=options.accelerator,
        precision=options.precision,
        batch_size=options.batch_size,
        images=None if listed is None else len(listed.values),
    )
    inputs = _of_dataset(options) if listed is None else listed
    count, classes = len(inputs.values), len(predictor.classes)
    if count == 0:
        raise DatasetError(f"split {options.split!r} holds no images")
    log.info(f"{count} images, {classes} classes, temperature {predictor.temperature:.4g}")
    if not predictor.calibrated:
        log.info("the model has no calibration: probabilities are the model's own (temperature 1)")
    return predictor, inputs


def _classify(predictor: Predictor, inputs: Inputs, options: PredictOptions) -> Iterator[list[Record]]:
    with freed_memory_kept():
        for batch in predict_inputs.loader(inputs, predictor.transform, options.batch_size, options.workers):
            yield _records(predictor, inputs, batch, options)


def _of_dataset(options: PredictOptions) -> Inputs:
    from finetune.commands import predict_rows  # with `datasets` and Lightning, seconds that files do not need

    if options.dataset:
        return predict_rows.from_dataset(
            options.dataset, options.split, options.dataset_config, options.revision, options.image_column
        )
    if export.of_file(options.model):
        raise RunFolderError(
            f"--split without --dataset is for a run, got the file {options.model}: give the run's folder"
        )
    return predict_rows.from_run(Path(options.model), options.split)


def _records(predictor: Predictor, inputs: Inputs, batch: Batch, options: PredictOptions) -> list[Record]:
    found: dict[int, Record] = {row: {"error": reason} for row, reason in batch.problems}
    if batch.rows:
        predictions = predictor.predict(batch.pixels, options.top_k, options.min_confidence)
        found |= {row: _record(p) for row, p in zip(batch.rows, predictions, strict=True)}
    return [inputs.names[row] | found[row] for row in sorted(found)]


def _record(prediction: Prediction) -> Record:
    return {
        "label": prediction.label,
        "confidence": round(prediction.confidence, 6),
        "abstained": prediction.abstained,
        "top": [{"label": name, "probability": round(p, 6)} for name, p in prediction.top],
    }


def write(options: PredictOptions) -> None:
    """Predict, and write a line for each image as soon as its batch is done.

    Raises:
        DatasetError: No image could be read.
        Interrupted: By Ctrl-C; the lines on standard output are whole, and no file is left.
    """
    counts = dict.fromkeys(("images", "error", "abstained"), 0)
    predictor, inputs = _prepare(options)
    start = time.perf_counter()
    try:
        with _opened(options.output) as stream:
            ranks = min(options.top_k, len(predictor.classes))
            line = _csv_lines(stream, list(inputs.names[0]), ranks) if options.format == "csv" else _json_lines(stream)
            for records in _classify(predictor, inputs, options):
                for record in records:
                    line(record)
                    _report(record)
                    counts = {name: n + bool(name == "images" or record.get(name)) for name, n in counts.items()}
                stream.flush()
            if counts["error"] == counts["images"]:
                raise DatasetError("none of the images could be read: see the reasons above")
    except KeyboardInterrupt:
        left = "no file was written" if options.output else "the lines on standard output are whole"
        raise Interrupted(f"stopped after {counts['images']} of {len(inputs.values)} images; {left}") from None
    except BrokenPipeError:  # whoever reads the lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    speed = counts["images"] / (time.perf_counter() - start)
    log.info(
        f"{counts['images']} images: {counts['error']} could not be read, {counts['abstained']} abstained; "
        f"{speed:.1f} images/s"
    )


def _report(record: Record) -> None:
    if "error" in record:
        name = record.get("image") or f"{record['split']}, row {record['row']}"
        log.info(f"cannot read {name}: {record['error']}")


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """A file that appears whole or not at all, or standard output."""
    if path is None:
        yield sys.stdout
        return
    path = path.expanduser()
    temporary = path.with_name(f"{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _json_lines(stream: TextIO) -> Callable[[Record], object]:
    """One JSON object a line; ASCII, so that no console's encoding matters."""
    return lambda record: stream.write(json.dumps(record) + "\n")


def _csv_lines(stream: TextIO, names: list[str], ranks: int) -> Callable[[Record], object]:
    """The same in columns: names, label, confidence, abstained, error, then label_1, probability_1, label_2, ..."""
    tops = [(f"label_{rank}", f"probability_{rank}") for rank in range(1, ranks + 1)]
    columns = [*names, "label", "confidence", "abstained", "error", *(name for pair in tops for name in pair)]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()

    def write(record: Record) -> None:
        row = {name: value for name, value in record.items() if name != "top"}
        for (label, probability), entry in zip(tops, record.get("top", ()), strict=False):
            row |= {label: entry["label"], probability: entry["probability"]}
        writer.writerow({name: _encodable(value) for name, value in row.items()})

    return write


def _encodable(value: Any) -> Any:
    """A file's name may have bytes that are no text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
