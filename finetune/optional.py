"""What a task or its schema may be besides `finetune.task`'s, asked for where it matters; Protocols alone, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from finetune.task import Schema

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn


@runtime_checkable
class Guessing(Protocol):
    """Of a task that takes less for its own where nobody has named it, by `--task` or by a run that is its."""

    def guess(
        self, features: Mapping[str, Any], image_column: str | None = None, target_column: str | None = None
    ) -> Schema:
        """As `finetune.task.Reading.recognise`, without what only a user can say."""


@runtime_checkable
class Marked(Protocol):
    """Of a schema whose targets say less than there is to learn: how many objects, and not where they are."""

    def digest(self, split: Dataset, rows: np.ndarray) -> str:
        """A hash of all that there is to learn of some rows, the same wherever the dataset lies."""


@runtime_checkable
class Exporting(Protocol):
    """Of a task whose exported file gives other than one array of logits of a batch of images."""

    def write_file(self, form: Any, network: nn.Module, path: Path, metadata: Mapping[str, str], verify: Path) -> str:
        """Write a file that appears only where its library gives what the network gives.

        Args:
            form: A `finetune.export.formats.Format`.
            network: Of `load`.
            path: To write.
            metadata: Text by name, to stand in the file.
            verify: What `witness` has written; not there where the dataset is out of reach.

        Returns:
            On what both were compared, and how far apart they are, in words.

        Raises:
            ConfigError: There is no such form of this task's networks.
            ExportError: The exporter or the library cannot do it, or their answers differ.
        """
