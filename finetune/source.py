"""Dataset name, folder, file or object -> `datasets.DatasetDict`; the only place that reaches out for data."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from cards.patience import TransportError
from finetune import hub, image_folder
from finetune.console import log
from finetune.errors import DatasetError, suggest
from finetune.sample import digits

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


@dataclass(frozen=True)
class Source:
    """A dataset that was found and opened.

    Attributes:
        splits: As the source names them; images are decoded on access.
        id: Hub id, folder's or file's name, or `memory`.
        hub: Whether `id` is one on the Hugging Face Hub.
        config: Its configuration, if it has several.
        revision: Commit on the Hub.
        license: As its card names it.
    """

    splits: DatasetDict
    id: str
    hub: bool = False
    config: str | None = None
    revision: str | None = None
    license: str | None = None


def load(
    dataset: str | Dataset | DatasetDict,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> Source:
    """Open a dataset.

    Args:
        dataset: Hub id (`OWNER/NAME`, with `:CONFIG` and `@REVISION` where wanted), a name of `SHORT_NAMES`, a folder
            (images, parquet, `save_to_disk`), a parquet, arrow or tar file, `digits`, or a dataset in memory.
        config: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        streaming: Read nothing but facts; the splits are an `IterableDatasetDict` where the dataset can be streamed.

    Raises:
        DatasetError: It does not exist, cannot be reached, or cannot be read.
    """
    if isinstance(dataset, Dataset):
        return Source(DatasetDict(train=dataset), "memory")
    if isinstance(dataset, DatasetDict):
        if not dataset:
            raise DatasetError("the DatasetDict has no splits: expected at least one, train")
        return Source(dataset, "memory")
    if not isinstance(dataset, str | os.PathLike):
        raise DatasetError(
            f"dataset must be a name, a path, a datasets.Dataset or a DatasetDict, got {type(dataset).__name__}; "
            "a list of images becomes one by Dataset.from_dict"
        )
    path = Path(dataset).expanduser()
    if path.exists():
        return _from_path(path, config, streaming)
    name = str(dataset)
    if name == "digits":
        return Source(DatasetDict(train=digits()), "digits", license="cc-by-4.0")
    if name.startswith((".", "/", "~")) or path.suffix in FILE_READERS:
        raise DatasetError(f"no such file or folder: {path.absolute()}")
    return _from_hub(name, config, revision, streaming)


def _from_path(path: Path, config: str | None, streaming: bool) -> Source:
    path = path.resolve()
    log.info(f"dataset: {'folder' if path.is_dir() else 'file'} {path}")
    if path.is_file():
        reader = FILE_READERS.get(path.suffix.lower())
        if reader is None:
            raise DatasetError(f"{path}: expected a folder or a {', '.join(FILE_READERS)} file, got {path.suffix!r}")
        opened = _read(str(path), lambda: datasets.load_dataset(reader, data_files=str(path), streaming=streaming))
        return Source(opened, path.stem)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        opened = _read(str(path), lambda: datasets.load_from_disk(path))
        splits = opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)
        return Source(splits, path.name, license=_card_license(path))
    if not any(p.is_file() and not p.name.startswith(".") for p in path.rglob("*")):
        raise DatasetError(
            f"{path} holds no files; expected a folder of images (one folder a class) or of parquet files"
        )
    splits = None if config or _declares_files(path) else image_folder.read(path)
    splits = splits or _read(str(path), lambda: datasets.load_dataset(str(path), name=config, streaming=streaming))
    return Source(splits, path.name, config=config, license=_card_license(path))


def _declares_files(folder: Path) -> bool:
    """Whether the folder's card says which files are the dataset, or is broken; `datasets` reads both, or complains."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    try:
        return DatasetCard.load(card).data.get("configs") is not None
    except yaml.YAMLError:
        return True
    except ValueError:  # a README without metadata
        return False


def _card_license(folder: Path) -> str | None:
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        license_name = DatasetCard.load(card).data.get("license")
    except (ValueError, yaml.YAMLError):  # a README without metadata, or with broken metadata
        return None
    return license_name if isinstance(license_name, str) else None


def _from_hub(name: str, config: str | None, revision: str | None, streaming: bool) -> Source:
    match = re.fullmatch(r"([^:@\s]+)(?::([^:@\s]+))?(?:@([^:@\s]+))?", name)
    if match is None:
        raise DatasetError(f"expected OWNER/NAME, OWNER/NAME:CONFIG or OWNER/NAME@REVISION, got {name!r}")
    repo = SHORT_NAMES.get(match[1], match[1])
    config, revision = config or match[2], revision or match[3]
    if "/" not in repo:
        known = [*SHORT_NAMES, "digits"]
        raise DatasetError(
            f"unknown dataset {name!r}{suggest(match[1], known) or '.'} Expected a Hub id (OWNER/NAME), an existing "
            f"folder or file, or one of {', '.join(known)}"
        )
    commit, license_name = _hub_facts(repo, revision)
    log.info(f"dataset: {repo}{f', configuration {config}' if config else ''} at {commit or 'the cached revision'}")
    page = f"{constants.ENDPOINT}/datasets/{repo}"
    splits = _read(repo, lambda: _fetch(repo, config, commit or revision, streaming), page)
    return Source(splits, repo, hub=True, config=config, revision=commit, license=license_name)


def _fetch(repo: str, config: str | None, revision: str | None, streaming: bool) -> Any:
    """A Hub dataset, of which nothing arrived damaged; of a stream nothing has arrived yet."""
    if streaming:
        return datasets.load_dataset(repo, name=config, revision=revision, streaming=True)

    def derived(splits: Any) -> Iterator[Path]:
        for split in splits.values() if isinstance(splits, DatasetDict) else [splits]:
            yield from (Path(file["filename"]).parent for file in split.cache_files)

    return hub.read_whole(repo, lambda: datasets.load_dataset(repo, name=config, revision=revision), derived)


def _hub_facts(repo: str, revision: str | None) -> tuple[str | None, str | None]:
    """Commit and licence of a Hub dataset; (None, None) where the Hub cannot be asked, for what is cached may do."""
    try:
        info = hub.patiently(lambda: HfApi().dataset_info(repo, revision=revision))
    except GatedRepoError as error:
        raise _gated(repo) from error
    except RevisionNotFoundError as error:
        raise DatasetError(f"{repo} has no branch, tag or commit {revision!r}: check --revision") from error
    except RepositoryNotFoundError as error:
        raise DatasetError(
            f"unknown dataset {repo!r}: {constants.ENDPOINT}/datasets/{repo} does not exist, or is private and you are "
            f"not logged in (`hf auth login`, or set HF_TOKEN){suggest(repo, SHORT_NAMES.values())}"
        ) from error
    except Exception as error:  # no connection, offline mode, a server's fault: the client's classes vary by version
        log.info(f"cannot ask {constants.ENDPOINT} about {repo} ({type(error).__name__}); trying the local cache")
        return None, None
    card_license = info.card_data.get("license") if info.card_data else None
    return info.sha, card_license if isinstance(card_license, str) else None


def _gated(repo: str) -> DatasetError:
    return DatasetError(
        f"{repo} is gated: accept its conditions at {constants.ENDPOINT}/datasets/{repo}, then log in "
        "(`hf auth login`, or set HF_TOKEN)"
    )


def _read(name: str, read: Callable[[], Any], page: str | None = None) -> Any:
    """Call a reader of the `datasets` library, and say in our words what went wrong; `page` is a Hub dataset's."""
    try:
        splits = read()
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):  # its facts are public, its files are not
            raise _gated(name) from error
        raise DatasetError(f"cannot open {name}: {_first_line(error)}") from error
    except ConnectionError as error:
        if page is not None and (reason := hub.explain(error, page)):
            raise DatasetError(f"cannot fetch {name}: {reason}") from error
        raise DatasetError(
            f"no network, and {name} is not in the local cache: tried {constants.ENDPOINT}. Behind a mirror set "
            "HF_ENDPOINT; offline, give --dataset a folder or file, or fetch it once where there is a network and copy "
            f"{constants.HF_HOME}"
        ) from error
    except ValueError as error:
        if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
            raise DatasetError(f"{name}: {_first_line(error)} Pick one by --dataset-config") from error
        raise DatasetError(f"cannot read {name}: {_first_line(error)}") from error
    except yaml.YAMLError as error:
        problem = f"the head of its README.md is not YAML: {_first_line(error)}"
        raise DatasetError(f"cannot read {name}: {problem}") from error
    except (OSError, RuntimeError, tarfile.TarError, datasets.exceptions.DatasetsError, TransportError) as error:
        if page is not None and (reason := hub.explain(error, page)):
            raise DatasetError(f"cannot fetch {name}: {reason}") from error
        cause = error.__cause__ or error
        raise DatasetError(f"cannot read {name}: {_first_line(cause)}") from error
    if isinstance(splits, Dataset):
        return DatasetDict(train=splits)
    return splits


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
