"""Where a dataset is: found, and said, before the library that reads it is imported."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from finetune.console import log, shown
from finetune.data import converted, hub
from finetune.data.folder import on_hub
from finetune.errors import DatasetError, suggest

SHORT_NAMES = {
    "beans": "AI-Lab-Makerere/beans",
    "cats_vs_dogs": "microsoft/cats_vs_dogs",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "food101": "ethz/food101",
    "imagenet-1k": "ILSVRC/imagenet-1k",
    "mnist": "ylecun/mnist",
    "oxford-iiit-pet": "timm/oxford-iiit-pet",
    "svhn": "ufldl-stanford/svhn",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
}
FILE_READERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
TABLES = (".csv", ".tsv", ".jsonl", ".json")
FILES = (*FILE_READERS, ".zip", ".tgz", ".tar.gz", *TABLES)
"""Suffixes of files that are a dataset: of images, archives of images, and tables that name images."""


@dataclass(frozen=True)
class Place:
    """Where a dataset is; with neither path nor repository it is the sample `digits`.

    Attributes:
        path: An existing folder or file, absolute.
        repo: OWNER/NAME on the Hugging Face Hub.
        config: Its configuration, if it has several.
        revision: Branch, tag or commit on the Hub that was asked for.
        commit: On the Hub; None where it could not be asked, for what is cached may do.
        license: As the Hub names it.
        converted: Whether the commit is of the Hub's conversion of a loading script.
        folder: Whether the repository is a folder of images, see `finetune.data.folder.on_hub`.
    """

    path: Path | None = None
    repo: str | None = None
    config: str | None = None
    revision: str | None = None
    commit: str | None = None
    license: str | None = None
    converted: bool = False
    folder: bool = False


def find(dataset: str | os.PathLike[str], config: str | None = None, revision: str | None = None) -> Place:
    """Find a dataset, and say where it is; nothing of it is read.

    Args:
        dataset: Hub id (`OWNER/NAME`, with `:CONFIG` and `@REVISION` where wanted), a name of `SHORT_NAMES`, a folder
            (images, parquet, `save_to_disk`), a parquet, arrow or tar file, or `digits`.
        config: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.

    Raises:
        DatasetError: It does not exist, or cannot be reached.
    """
    path = Path(dataset).expanduser()
    if dataset == "digits":
        if path.exists():
            log.info("dataset: the sample digits, not the folder of that name here: write ./digits for that")
        return Place()
    if path.exists():
        return _on_disk(path, config)
    check(dataset)
    return _on_hub(*_repository(str(dataset)), config, revision)


def check(dataset: str | os.PathLike[str]) -> None:
    """Raise for what cannot be a dataset; the Hub is not asked.

    Raises:
        DatasetError: There is no such folder or file, and no dataset on the Hub can have that name.
    """
    path, name = Path(dataset).expanduser(), str(dataset)
    if path.exists() or name == "digits":
        return
    if name.startswith((".", "/", "~")) or name.endswith(("/", os.sep)) or path.name.lower().endswith(FILES):
        raise DatasetError(f"no such file or folder: {path.absolute()}")
    _repository(name)


def _on_disk(path: Path, config: str | None) -> Place:
    path = path.resolve()
    log.info(f"dataset: {'folder' if path.is_dir() else 'file'} {shown(str(path))}")
    if path.is_file():
        if path.name.lower().endswith(FILES):
            return Place(path, config=config)
        raise DatasetError(f"{path}: expected a folder or a {', '.join(FILES)} file, got {path.suffix!r}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DatasetError(f"cannot read folder {shown(str(path))}: permission denied (chmod u+rx gives access)")
    if not any(p.is_file() and not p.name.startswith(".") for p in path.rglob("*")):
        raise DatasetError(
            f"{path} holds no files; expected a folder of images (one folder a class) or of parquet files"
        )
    return Place(path, config=config)


def _repository(name: str) -> tuple[str, str | None, str | None]:
    """OWNER/NAME on the Hub, and the configuration and revision that stand in the name."""
    match = re.fullmatch(r"([^:@\s]+)(?::([^:@\s]+))?(?:@([^:@\s]+))?", name)
    if match is None:
        raise DatasetError(f"expected OWNER/NAME, OWNER/NAME:CONFIG or OWNER/NAME@REVISION, got {name!r}")
    repo = SHORT_NAMES.get(match[1], match[1])
    if "/" not in repo:
        known = [*SHORT_NAMES, "digits"]
        raise DatasetError(
            f"unknown dataset {name!r}{suggest(match[1], known) or '.'} Expected a Hub id (OWNER/NAME), an existing "
            f"folder or file, or one of {', '.join(known)}"
        )
    return repo, match[2], match[3]


def _on_hub(
    repo: str, named_config: str | None, named_revision: str | None, config: str | None, revision: str | None
) -> Place:
    config, revision = config or named_config, revision or named_revision
    place = _hub_facts(repo, revision)
    log.info(
        f"dataset: {repo}{f', configuration {config}' if config else ''} at {place.commit or 'the cached revision'}"
    )
    return dataclasses.replace(place, config=config, revision=revision)


def _hub_facts(repo: str, revision: str | None) -> Place:
    """Commit, licence and kind of a Hub dataset; nothing where the Hub cannot be asked, for what is cached may do."""
    if not hub.reachable():
        return Place(repo=repo, folder=on_hub.is_cached(repo, revision))
    try:
        info = hub.patiently(lambda: HfApi().dataset_info(repo, revision=revision))
    except GatedRepoError as error:
        raise gated(repo) from error
    except RevisionNotFoundError as error:
        raise DatasetError(f"{repo} has no branch, tag or commit {revision!r}: check --revision") from error
    except RepositoryNotFoundError as error:
        raise DatasetError(
            f"unknown dataset {repo!r}: {constants.ENDPOINT}/datasets/{repo} does not exist, or is private and you are "
            f"not logged in (`hf auth login`, or set HF_TOKEN){suggest(repo, SHORT_NAMES.values())}"
        ) from error
    except Exception as error:  # no connection, offline mode, a server's fault: the client's classes vary by version
        log.info(f"cannot ask {constants.ENDPOINT} about {repo} ({type(error).__name__}); trying the local cache")
        return Place(repo=repo, folder=on_hub.is_cached(repo, revision))
    card: Any = info.card_data or {}
    card_license = card.get("license")
    files = [file.rfilename for file in info.siblings or []]
    return Place(
        repo=repo,
        commit=info.sha,
        license=card_license if isinstance(card_license, str) else None,
        converted=converted.is_conversion(files),
        folder=on_hub.is_folder(files, declared=card.get("configs") is not None),
    )


def gated(repo: str) -> DatasetError:
    """The error of a Hub dataset whose conditions were not accepted."""
    return DatasetError(
        f"{repo} is gated: accept its conditions at {constants.ENDPOINT}/datasets/{repo}, then log in "
        "(`hf auth login`, or set HF_TOKEN)"
    )
