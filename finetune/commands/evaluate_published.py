"""A published model's number again, from its repository alone: evaluation.json says on which images it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.console import log
from finetune.data import hub, outside, source
from finetune.data.dataset import LabelledImages, inspect
from finetune.data.splits import SplitRows, Splits
from finetune.errors import ConfigError, DatasetError
from finetune.networks.model_names import HUB
from finetune.runs import model_files, reading
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder, write_text
from finetune.settings.config import RunConfig
from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.tasks import registry

NAME = "evaluation.json"
_TEXT = (str, type(None))
_SCHEMA = {
    "task": str,
    "dataset": {
        "id": str,
        "open": _TEXT,
        "config": _TEXT,
        "revision": _TEXT,
        "image_column": str,
        "target_column": str,
    },
    "split": str,
    "rows": reading.SPLITS["test"]["rows"],
    "images": str,
    "classes": [str],
    "metrics": reading.Each(reading.NUMBER),
}
_FILES = (NAME, model_files.CONFIG, model_files.WEIGHTS, model_files.CERTIFICATE, "finetune.json")


def write(folder: RunFolder, result: RunResult, config: RunConfig, data: LabelledImages) -> None:
    """Write model/evaluation.json: which images the test numbers are of, and these numbers.

    A folder of this machine is not named: its rows say nothing to anybody else.
    """
    part, of = data.splits.parts["test"], result.dataset
    findable = of["hub"] or config.dataset == "digits"
    content = {
        "version": 1,
        "task": result.task,
        "dataset": {
            "id": of["id"],
            "open": str(config.dataset) if findable else None,
            "config": of["config"],
            "revision": of["revision"],
            "image_column": data.schema.image_column,
            "target_column": data.schema.target_column,
        },
        "split": part.source,
        "rows": part.to_json()["rows"],
        "images": data.fingerprint("test"),
        "classes": of["classes"],
        "metrics": result.metrics["test"],
    }
    write_text(folder.model / NAME, json.dumps(content, ensure_ascii=False) + "\n")


def fetched(model: str) -> Path | None:
    """The folder that a model's files are in, with evaluation.json; None where a model has none.

    Args:
        model: `hf-hub:OWNER/NAME[@REVISION]`, or `local-dir:PATH`.

    Raises:
        Exception: As the Hub's client raises them.
    """
    if not model.startswith(HUB):
        folder = Path(model.removeprefix("local-dir:")).expanduser()
        return folder if (folder / NAME).is_file() else None
    repo, _, revision = model.partition(":")[2].partition("@")
    log.info(f"fetching {repo}")
    paths = [hub.fetch(repo, name, revision or None) for name in _FILES]
    return paths[0].parent if paths[0] else None


def opened(folder: Path) -> tuple[dict[str, Any], LabelledImages]:
    """What evaluation.json says, and the images that it means as the test split.

    Raises:
        ConfigError: They are of a dataset that nobody else can open.
        DatasetError: It is gone, or has changed.
        RunFolderError: evaluation.json is damaged.
    """
    said = reading.read(folder / NAME, _SCHEMA)
    known = said["dataset"]
    if known["open"] is None:
        raise ConfigError(
            f"--dataset must be given: the model was tested on {known['id']}, a dataset that is not on the Hub"
        )
    task = registry.get(said["task"])
    found = source.load(known["open"], known["config"], known["revision"])
    schema, columns = inspect(found.splits, task, known["image_column"], known["target_column"])
    found = outside.of_source(found, schema.image_column)
    targets = schema.encode(columns.get(said["split"], []))
    rows = np.arange(len(targets)) if said["rows"] == "all" else np.array(said["rows"], dtype=np.int64)
    if rows.max(initial=-1) >= len(targets):
        raise DatasetError(
            f"the dataset has changed: split {said['split']!r} has {len(targets)} images, fewer than before"
        )
    part = SplitRows(said["split"], rows, targets[rows], said["rows"] == "all")
    data = LabelledImages(found, schema, Splits({"test": part}), max_image_pixels=MAX_IMAGE_PIXELS)
    if list(schema.classes) != said["classes"] or data.fingerprint("test") != said["images"]:
        raise DatasetError(
            f"the dataset has changed since the model was tested: {said['images']}, now {data.fingerprint('test')}"
        )
    return said, data
