"""Datasets of the Hub that are plain folders of images: fetched whole, and read as a folder on the disk is.

`datasets` reads them too, with what it lets drop out in silence (see `finetune.data.folder.read`). It goes on reading
what is made for it: parquet, arrow and WebDataset files, and whatever the card names by `configs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, constants, snapshot_download

from finetune.data import hub
from finetune.data.folder import tree

_MADE_FOR_DATASETS = {".parquet", ".arrow", ".tar", ".lance", ".h5", ".hdf5"}


def is_folder(paths: Iterable[str], declared: bool) -> bool:
    """Whether a repository is a folder of images, or of archives, and nothing else reads it better.

    Args:
        paths: Of all its files.
        declared: Whether its card says which files are the dataset.
    """
    files = [path for path in paths if not os.path.basename(path).startswith(".")]
    suffixes = {os.path.splitext(path)[1].lower() for path in files}
    scripts = any("/" not in path and path.endswith(".py") for path in files)
    if declared or scripts or suffixes & _MADE_FOR_DATASETS:
        return False
    pictures = suffixes & tree.image_suffixes()
    return bool(pictures) or any(path.lower().endswith(tree.ARCHIVES) for path in files)


def is_cached(repo: str, revision: str | None) -> bool:
    """Whether such a folder was fetched before; the Hub is not asked."""
    path = _cached(repo, revision)
    if path is None:
        return False
    card = path / "README.md"
    declared = card.is_file() and _head(card).get("configs") is not None
    return is_folder((str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()), declared)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The revision that was fetched; the newest where none is asked for, as commits are fetched and not branches."""
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except (OSError, ValueError):  # nothing of it, or not that revision
        folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
        found = [] if revision else [path for path in folder.glob("snapshots/*") if path.is_dir()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _head(card: Path) -> dict[str, Any]:
    """Of a card; nothing where it has none, or a broken one."""
    try:
        return dict(DatasetCard.load(card).data.to_dict())
    except (ValueError, yaml.YAMLError):
        return {}


def fetch(repo: str, commit: str | None, revision: str | None) -> Path:
    """The files of a repository, in the Hub's cache.

    Args:
        repo: OWNER/NAME.
        commit: Which one; None where the Hub cannot be asked.
        revision: That was asked for.

    Raises:
        DamagedError: Files arrived damaged twice.
        Exception: As the client raises them.
    """
    if commit is None and (path := _cached(repo, revision)) is not None:
        return path
    which = commit or revision
    return hub.read_whole(
        repo, lambda: Path(snapshot_download(repo, repo_type="dataset", revision=which)), lambda _: iter(())
    )
