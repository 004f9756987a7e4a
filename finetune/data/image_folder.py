"""A folder of images, one folder a class -> DatasetDict.

`datasets` reads such folders too, but lets images drop out in silence: where a file's name has the word `test` it reads
nothing else, it does not follow links, mixes the images of `Train/` and `Test/`, and chooses what to read by the most
frequent suffix. Here every file is either an image of a class or said to be left out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image, NamedSplit
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from finetune.console import log
from finetune.data.columns import UNLABELLED
from finetune.errors import DatasetError, listing

TABLES = {".parquet", ".arrow", ".tar", ".lance", ".h5", ".hdf5", ".zip"}
"""Files that hold images themselves; where they are not fewer than the images, `datasets` reads the folder."""
METADATA = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}

_NO_IMAGES = {"MPEG", "HDF5", "GRIB", "BUFR"}  # Pillow knows of them and does not decode them
_HEIC = {".heic", ".heif", ".hif"}  # read with a plugin, and without it counted as images that do not decode
_LITTER = {"thumbs.db", "desktop.ini"}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class _File:
    """An image: the folders that lead to it from the root, its name, and a state that changes with its bytes."""

    folders: tuple[str, ...]
    name: str
    state: str

    @property
    def path(self) -> str:
        return "/".join((*self.folders, self.name))


def read(root: Path) -> DatasetDict | None:
    """Read a folder of images; the class of an image is the name of the folder that it lies in.

    Split folders (`train`, `val`, `seg_test`, `Training Set`, ...; by the words of the name) are told from classes of
    such names in that they hold folders with images, and not only images. Folders above them are passed through. Links
    are followed. Images outside of the class folders have no label.

    Args:
        root: The folder.

    Returns:
        Images not decoded, by path, in the order of their paths; splits named train, validation, test. None where this
        is no plain folder of images, but one of tables or with metadata.

    Raises:
        DatasetError: Class folders lie at different depths.
    """
    images, others = _walk(root)
    tables = sum(count for suffix, count in others.items() if suffix in TABLES)
    if not images or tables >= len(images) or others["metadata"]:
        return None
    depth, roles = _splits({file.folders for file in images})
    members: dict[str, list[_File]] = {}
    outside: Counter[str] = Counter()
    for file in images:
        role = roles.get(file.folders[depth], "") if len(file.folders) > depth else ""
        if roles and not role:
            outside["/".join(file.folders[: depth + 1]) or "."] += 1
        else:
            members.setdefault(role or "train", []).append(file)
    base = depth + 1 if roles else depth
    labels = {split: _classes(files, base) for split, files in members.items()}
    names = sorted({name for found in labels.values() for name in found if name is not None})
    _say(others, outside, _empty(root, depth, roles, names))
    return DatasetDict({s: _table(root, s, members[s], labels[s], names) for s in _SPLITS if s in members})


def _walk(root: Path) -> tuple[list[_File], Counter[str]]:
    """All images, by path, and how many other files there are by suffix; hidden ones do not count."""
    suffixes = _image_suffixes()
    images: list[_File] = []
    others: Counter[str] = Counter()
    for folders, entry in _files(root, (), ()):
        name = entry.name.lower()
        suffix = os.path.splitext(name)[1]
        if suffix in suffixes:
            images.append(_File(folders, entry.name, _state(entry)))
        elif name in METADATA:
            others["metadata"] += 1
        elif name not in _LITTER and not (not folders and name.startswith(("readme", "license"))):
            others[suffix or "no suffix"] += 1
    return sorted(images, key=lambda file: file.path), others


def _files(
    folder: Path, folders: tuple[str, ...], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    found = folder.stat()
    here = (found.st_dev, found.st_ino)
    if here in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            if _is_folder(entry):
                yield from _files(Path(entry.path), (*folders, entry.name), (*above, here))
            else:
                yield folders, entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: counted as an image that does not decode
        return False


def _state(entry: os.DirEntry[str]) -> str:
    try:
        state = entry.stat()
    except OSError:  # a broken link: counted as an image that does not decode
        return "absent"
    return f"{state.st_size} {state.st_mtime_ns}"


def _image_suffixes() -> set[str]:
    formats = PILImage.registered_extensions()
    return _HEIC | {s for s, name in formats.items() if name in PILImage.OPEN and name not in _NO_IMAGES}


def _role(name: str) -> str | None:
    words = set(re.split(r"[\W_\d]+", name.lower()))
    roles = [role for role, known in _SPLITS.items() if words & set(known)]
    return roles[0] if len(roles) == 1 else None


def _splits(folders: set[tuple[str, ...]], depth: int = 0) -> tuple[int, dict[str, str]]:
    """How many folders lead to the splits (or classes), and the role of each split folder, if there are any."""
    below = {path[depth] for path in folders if len(path) > depth}
    if len(below) == 1 and all(len(path) > depth + 1 for path in folders):
        inner, roles = _splits(folders, depth + 1)
        if roles or not _role(next(iter(below))):
            return inner, roles
    known = {name: role for name in below if (role := _role(name)) is not None}
    with_folders = {path[depth] for path in folders if len(path) > depth + 1}
    # Where one of them holds class folders, a test folder of nothing but images is a split too.
    return depth, known if with_folders & known.keys() else {}


def _classes(files: Sequence[_File], base: int) -> list[str | None]:
    """The class of each image, None for those that lie outside of class folders.

    Raises:
        DatasetError: Class folders lie at different depths.
    """
    examples = {len(file.folders): file for file in files if len(file.folders) > base}
    if len(examples) > 1:
        shallow, deep = examples[min(examples)], examples[max(examples)]
        raise DatasetError(
            f"class folders lie at different depths: {shallow.path} and {deep.path}. Expected one folder per class, "
            "all at the same depth: move the images up or away"
        )
    return [file.folders[-1] if len(file.folders) > base else None for file in files]


def _table(root: Path, split: str, files: Sequence[_File], labels: Sequence[str | None], names: list[str]) -> Dataset:
    index = {name: i for i, name in enumerate(names)}
    paths = pa.array([str(root / file.path) for file in files])
    columns = {"image": pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), paths], ["bytes", "path"])}
    features = Features(image=Image())
    if names:
        features["label"] = ClassLabel(names=names)
        columns["label"] = pa.array([UNLABELLED if name is None else index[name] for name in labels], pa.int64())
    table = InMemoryTable.from_pydict(columns, schema=features.arrow_schema)
    key = hashlib.sha256("\n".join([str(root), *names, *(f"{f.path} {f.state}" for f in files)]).encode()).hexdigest()
    return Dataset(table, DatasetInfo(features=features), NamedSplit(split), fingerprint=key[:16])


def _empty(root: Path, depth: int, roles: dict[str, str], names: Iterable[str]) -> list[str]:
    """Folders beside the class folders without any image."""
    if depth or roles:
        return []
    return sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in names and p.name[0] not in "._")


def _say(others: Counter[str], outside: Counter[str], empty: Sequence[str]) -> None:
    if others:
        log.info(f"not read: {listing((f'{n} {suffix}' for suffix, n in others.most_common()), 6)} files, no images")
    if outside:
        counts = (f"{count} in {folder}" for folder, count in outside.most_common())
        log.info(
            f"warning: left out: {sum(outside.values())} images outside of the split folders ({listing(counts, 6)})"
        )
    if empty:
        log.info(f"warning: no image in {listing(empty)}: no such class")
