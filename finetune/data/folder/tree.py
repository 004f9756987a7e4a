"""The listing of a folder: every file, what kind it is, and a state that changes with its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as PILImage

from finetune.console import shown
from finetune.errors import DatasetError

TABLE_SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".json"}
DATA_SUFFIXES = {".parquet", ".arrow", ".tar"}
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_LARGEST_JSON = 2**28  # bytes; no table beside images is larger, but annotations of boxes are

_NO_IMAGES = {"MPEG", "HDF5", "GRIB", "BUFR"}  # Pillow knows of them and does not decode them
_HEIC = {".heic", ".heif", ".hif"}  # read with a plugin, and without it counted as images that do not decode
_LITTER = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class File:
    """A file of the tree.

    Attributes:
        folders: That lead to it from the root, as they are shown.
        name: As it is shown: bytes that are no UTF-8 are escaped.
        place: Where it lies, as the system has it.
        state: Changes with its bytes.
    """

    folders: tuple[str, ...]
    name: str
    place: str
    state: str = ""

    @property
    def path(self) -> str:
        """From the root, with slashes."""
        return "/".join((*self.folders, self.name))


@dataclass
class Tree:
    """All files below a folder, each kind by path; hidden files and the README are in none.

    Attributes:
        images: Whose suffix Pillow knows.
        tables: csv, tsv, json and jsonl files, and `metadata.parquet`.
        data: parquet, arrow and tar files.
        archives: zip and compressed tar files.
        others: All the rest.
        readme: Text of the README, where there is one.
    """

    images: list[File] = field(default_factory=list)
    tables: list[File] = field(default_factory=list)
    data: list[File] = field(default_factory=list)
    archives: list[File] = field(default_factory=list)
    others: list[File] = field(default_factory=list)
    readme: str = ""


def walk(root: Path, above: tuple[str, ...] = ()) -> Tree:
    """List a folder. Links are followed, once.

    Args:
        root: The folder.
        above: Folders that its files are said to lie in.

    Raises:
        DatasetError: A folder in it may not be read.
    """
    tree, suffixes = Tree(), image_suffixes()
    for folders, entry in _files(root, above, ()):
        file = File(folders, shown(entry.name), entry.path, _state(entry))
        name = file.name.lower()
        suffix = os.path.splitext(name)[1]
        if suffix in suffixes:
            tree.images.append(file)
        elif name in _LITTER:
            continue
        elif folders == above and name.startswith(("readme", "license")):
            if name == "readme.md":
                tree.readme = Path(entry.path).read_text("utf-8", "replace")
        elif name == "metadata.parquet" or (suffix in TABLE_SUFFIXES and not _is_large_json(suffix, file.state)):
            tree.tables.append(file)
        elif name.endswith(ARCHIVES):
            tree.archives.append(file)
        else:
            (tree.data if suffix in DATA_SUFFIXES else tree.others).append(file)
    for files in (tree.images, tree.tables, tree.data, tree.archives, tree.others):
        files.sort(key=lambda file: file.path)
    return tree


def _is_large_json(suffix: str, state: str) -> bool:
    size = state.split()[0]
    return suffix == ".json" and size.isdigit() and int(size) > _LARGEST_JSON


def _files(
    folder: Path, folders: tuple[str, ...], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    try:
        found = folder.stat()
        here = (found.st_dev, found.st_ino)
        if here in above:  # a link to a folder that it lies in
            return
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith((".", "__"))]
    except PermissionError as error:
        raise DatasetError(
            f"cannot read folder {shown(str(folder))}: permission denied. Give yourself access (chmod u+rx), or move "
            "it away"
        ) from error
    for entry in entries:
        if _is_folder(entry):
            yield from _files(Path(entry.path), (*folders, shown(entry.name)), (*above, here))
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


def image_suffixes() -> set[str]:
    """Suffixes of images, with the dot, in lower case."""
    formats = PILImage.registered_extensions()
    return _HEIC | {s for s, name in formats.items() if name in PILImage.OPEN and name not in _NO_IMAGES}
