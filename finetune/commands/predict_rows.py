"""What predict reads from a dataset: the rows of a split, or those that a run took for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image

from finetune.commands import evaluate
from finetune.data import columns, outside, source
from finetune.data.splits import ROLES
from finetune.errors import RunFolderError, SplitError, suggest
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder
from finetune.serving.inputs import Inputs


def from_dataset(
    dataset: str,
    split: str | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
) -> Inputs:
    """All images of a dataset's split; labels are not looked at, and need not be there.

    Raises:
        DatasetError: It cannot be opened.
        SchemaError: It does not say which column holds the images.
        SplitError: It has no such split, or several and none was named.
    """
    opened = source.load(dataset, dataset_config, revision)
    splits = opened.splits
    names = ", ".join(splits)
    if split is None and len(splits) > 1:
        raise SplitError(f"--split must be given: {dataset} has {names}")
    name = split or next(iter(splits))
    if name not in splits:
        raise SplitError(f"--split: no split {name!r}{suggest(name, splits) or '.'} Splits: {names}")
    column = columns.find_image_column(splits[name].features, image_column)
    rows_of = outside.guarded(DatasetDict({name: splits[name]}), column, opened.roots)[name]
    return from_rows(rows_of, column, name, range(len(rows_of)))


def from_run(run: Path, split: str | None) -> Inputs:
    """The images that a run took for test, validation or training.

    Raises:
        RunFolderError: It is no complete run, has no such split, or has streamed its dataset.
        DatasetError: The dataset is gone, or has changed since.
    """
    folder = RunFolder(run.expanduser().absolute())
    if split not in ROLES:
        raise RunFolderError(f"--split of a run must be one of {', '.join(ROLES)}, got {split!r}")
    data = evaluate.reopen(folder, RunResult.load(folder.result), split)
    part, column = data.splits.parts["test"], data.schema.image_column
    if not isinstance(data.source.splits[part.source], Dataset):
        raise RunFolderError(
            f"--split: the run in {folder.path} has streamed its dataset; give --dataset (which copies it) beside "
            "--split, or PATHS"
        )
    return from_rows(data.source.splits[part.source], column, part.source, part.rows.tolist())


def from_rows(rows_of: Dataset, column: str, split: str, rows: Sequence[int]) -> Inputs:
    """Some rows of a split."""
    encoded = rows_of.cast_column(column, Image(decode=False)).select_columns([column])
    return Inputs([{"split": split, "row": int(row)} for row in rows], _Column(encoded, column, rows))


class _Column(Sequence[Any]):
    """The values of a column, read when they are asked for."""

    def __init__(self, encoded: Dataset, column: str, rows: Sequence[int]) -> None:
        self.encoded, self.column, self.rows = encoded, column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.encoded[int(self.rows[index])][self.column]
