"""Dataset name, place or object -> `datasets.DatasetDict`; only this and `finetune.data.places` reach out for data."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, constants

from cards.hub.patience import TransportError
from finetune.data import converted, hub, outside, places, shaping
from finetune.data.folder import archives, on_hub
from finetune.data.folder import read as folders
from finetune.data.folder.shards import Shards
from finetune.data.images import MARK
from finetune.data.places import FILE_READERS, TABLES, Place
from finetune.data.sample import digits
from finetune.errors import DatasetError


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
        folder: That paths in its columns start from.
        remark: Why there is nothing to learn, where that is known.
        roots: Folders in which its rows may name files, see `finetune.data.outside`; None where they are not a
            stranger's: in memory, or named by ourselves.
    """

    splits: DatasetDict
    id: str
    hub: bool = False
    config: str | None = None
    revision: str | None = None
    license: str | None = None
    folder: Path | None = None
    remark: str = ""
    roots: tuple[str, ...] | None = None


def load(
    dataset: str | os.PathLike[str] | Place | Dataset | DatasetDict,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> Source:
    """Open a dataset.

    Args:
        dataset: A name or path as `finetune.data.places.find` takes it, what that returned, or a dataset in memory.
        config: Configuration of a Hub dataset; of a name.
        revision: Branch, tag or commit of a Hub dataset; of a name.
        streaming: Read nothing but facts; the splits are an `IterableDatasetDict` where the dataset can be streamed.

    Raises:
        DatasetError: It does not exist, cannot be reached, or cannot be read.
    """
    if isinstance(dataset, Dataset):
        dataset = DatasetDict(train=dataset)
    if isinstance(dataset, DatasetDict):
        if not dataset:
            raise DatasetError("the DatasetDict has no splits: expected at least one, train")
        return Source(shaping.plain(dataset), "memory")
    if not isinstance(dataset, str | os.PathLike | Place):
        raise DatasetError(
            f"dataset must be a name, a path, a datasets.Dataset or a DatasetDict, got {type(dataset).__name__}; "
            "a list of images becomes one by Dataset.from_dict"
        )
    place = dataset if isinstance(dataset, Place) else places.find(dataset, config, revision)
    if place.path is not None:
        return _plain(_from_path(place.path, place.config, streaming))
    if place.repo is not None:
        return _plain(_from_hub(place.repo, place, streaming))
    return Source(DatasetDict(train=digits()), "digits", license="cc-by-4.0")


def beside(opened: Source, names: Sequence[str]) -> Path | None:
    """A small file at the top of a dataset's folder or repository.

    Args:
        opened: The dataset.
        names: Of the file, the first that is there counts.

    Returns:
        Its path on this machine; None where there is none, or where the Hub cannot be asked and none is cached.
    """
    if opened.hub:
        return hub.beside(opened.id, names, opened.revision)
    folder = opened.folder or next((Path(root) for root in opened.roots or ()), None)
    if folder is None:
        return None
    found = (folder / name for name in names if (folder / name).is_file())
    return next((path for path in found if _may_be_read(path, opened.roots)), None)


def _may_be_read(path: Path, roots: Sequence[str] | None) -> bool:
    return roots is None or not outside.checked(str(path), roots).startswith(MARK)


def _plain(opened: Source) -> Source:
    return dataclasses.replace(opened, splits=shaping.plain(opened.splits, opened.folder, opened.roots))


def _from_path(path: Path, config: str | None, streaming: bool) -> Source:
    if path.is_file():
        return _from_file(path, streaming)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        opened = _read(str(path), lambda: datasets.load_from_disk(path))
        splits = opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)
        return Source(splits, path.name, license=_card_license(path), roots=outside.roots_of_folder(path))
    outside.check_card(path)
    license_name = _card_license(path)
    found = None if config or _declares_files(path) else folders.read(path)
    if isinstance(found, folders.Folder):  # which has listed the files itself
        return Source(found.splits, path.name, license=license_name, folder=path, remark=found.remark)
    if found is not None:
        splits, roots = _shards(path, found, streaming), outside.roots_of_folder(path)
        return Source(splits, path.name, license=license_name, folder=path, roots=roots)
    splits = _read(str(path), lambda: datasets.load_dataset(str(path), name=config, streaming=streaming))
    roots = outside.roots_of_folder(path)
    return Source(splits, path.name, config=config, license=license_name, folder=path, roots=roots)


def _from_file(path: Path, streaming: bool) -> Source:
    """A file of images, an archive of them, or a table that names them."""
    reader = FILE_READERS.get(path.suffix.lower())
    if reader == "webdataset" and archives.is_plain(str(path)):
        reader = None
    if reader is not None:
        opened = _shards(path, Shards(reader, {"train": [str(path)]}), streaming)
        return Source(opened, path.stem, folder=path.parent, roots=outside.roots_of_folder(path.parent))
    if path.suffix.lower() in TABLES:
        found = folders.read_table(path)
    else:
        found = folders.read(archives.unpack(str(path)))
    if not isinstance(found, folders.Folder):
        raise DatasetError(f"cannot read {path}: it holds no rows of a table, and no images")
    return Source(found.splits, path.stem, folder=path.parent, remark=found.remark)


def _shards(path: Path, planned: Shards, streaming: bool) -> Any:
    files: Any = planned.files
    return _read(str(path), lambda: datasets.load_dataset(planned.reader, data_files=files, streaming=streaming))


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


def _from_hub(repo: str, place: Place, streaming: bool) -> Source:
    page = f"{constants.ENDPOINT}/datasets/{repo}"
    if place.converted:
        return _converted(repo, place, streaming, page, place.commit)
    if place.folder and place.config is None and not streaming:
        return _fetched(repo, place, page)
    try:
        splits = _read(repo, lambda: _fetch(repo, place.config, place.commit or place.revision, streaming), page)
    except DatasetError as error:
        if not converted.has_script(error.__cause__):
            raise
        converted.check_revision(repo, place.revision)
        return _converted(repo, place, streaming, page)
    return Source(splits, repo, True, place.config, place.commit, place.license, roots=outside.roots_of_hub())


def _fetched(repo: str, place: Place, page: str) -> Source:
    """A dataset that is a folder of images on the Hub."""
    path: Path = _call(repo, lambda: on_hub.fetch(repo, place.commit, place.revision), page)
    found = folders.read(path)
    if not isinstance(found, folders.Folder):
        raise DatasetError(f"cannot read {repo}: it holds no rows of a table, and no images")
    roots = outside.roots_of_folder(path)
    return Source(
        found.splits, repo, True, None, place.commit, place.license, folder=path, remark=found.remark, roots=roots
    )


def _converted(repo: str, place: Place, streaming: bool, page: str, commit: str | None = None) -> Source:
    """A dataset with a loading script, by the Hub's conversion of it."""
    chosen = _read(repo, lambda: converted.find(repo, place.config, commit), page)
    splits = _read(repo, lambda: _fetch_files(repo, chosen.files, streaming), page)
    return Source(splits, repo, True, chosen.config, chosen.commit, place.license, roots=outside.roots_of_hub())


def _fetch(repo: str, config: str | None, revision: str | None, streaming: bool) -> Any:
    """A Hub dataset, of which nothing arrived damaged; of a stream nothing has arrived yet."""
    if streaming:
        return datasets.load_dataset(repo, name=config, revision=revision, streaming=True)

    return hub.read_whole(repo, lambda: datasets.load_dataset(repo, name=config, revision=revision), _derived)


def _fetch_files(repo: str, files: Any, streaming: bool) -> Any:
    """Parquet files of a Hub dataset, in the same way."""
    if streaming:
        return datasets.load_dataset("parquet", data_files=files, streaming=True)
    return hub.read_whole(repo, lambda: datasets.load_dataset("parquet", data_files=files), _derived)


def _derived(splits: Any) -> Iterator[Path]:
    for split in splits.values() if isinstance(splits, DatasetDict) else [splits]:
        yield from (Path(file["filename"]).parent for file in split.cache_files)


def _read(name: str, read: Callable[[], Any], page: str | None = None) -> Any:
    """Splits from a reader of the `datasets` library, see `_call`."""
    splits = _call(name, read, page)
    return DatasetDict(train=splits) if isinstance(splits, Dataset) else splits


def _call(name: str, read: Callable[[], Any], page: str | None = None) -> Any:
    """Call a reader, and say in our words what went wrong; `page` is a Hub dataset's."""
    try:
        return read()
    except DatasetError:  # said already
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):  # its facts are public, its files are not
            raise places.gated(name) from error
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


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
