"""Flags of `prepare-imagenet`, and their checks; imports no heavy library, so that `--help` answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from finetune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Turn ImageNet's original tars (train, validation, devkit) into parquet shards that `--dataset DIR` reads.

    Nothing is unpacked. An interrupted run goes on where it was when the same command is given again.
    """

    tars: Path
    """Folder that holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz."""
    output: Path
    """Folder to make, or to go on with."""
    processes: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the cores at hand)")] = None
    """How many processes write shards; the bytes do not depend on it."""
    shard_size: float = 500
    """Megabytes of images in a shard, about."""
    verify: bool = True
    """Compare the tars' MD5 sums with the official ones first."""
    checksums: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: the official sums)")] = None
    """File of md5sum's lines to compare with, for tars that were packed anew."""

    def check(self) -> None:
        """Look for values that make no sense.

        Raises:
            ConfigError: Every problem found, at once.
        """
        problems = []
        if self.processes is not None and self.processes < 1:
            problems.append(f"--processes must be at least 1, got {self.processes}")
        if not (math.isfinite(self.shard_size) and self.shard_size * 1e6 >= 1):
            problems.append(f"--shard-size must be above 0, in megabytes, got {self.shard_size}")
        if self.checksums is not None and not self.verify:
            problems.append("--checksums and --no-verify cannot go together: leave one out")
        if problems:
            raise ConfigError("; ".join(problems))
