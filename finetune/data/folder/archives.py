"""zip and tar files of images, unpacked into the cache of `datasets`, by its own extractors, where that is safe."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import datasets
from datasets.utils.extract import Extractor

from finetune.console import log, shown
from finetune.data.folder.tree import image_suffixes
from finetune.errors import DatasetError

_HEAD = 200  # members of a tar by which its kind is told


def is_plain(tar: str) -> bool:
    """Whether a tar holds files as a folder does; in a WebDataset images have a file of the same name beside.

    Args:
        tar: Its path.
    """
    suffixes = image_suffixes()
    images: set[str] = set()
    count = 0
    beside: set[str] = set()
    try:
        with tarfile.open(tar) as archive:
            for number, member in enumerate(archive):
                if member.isfile() and not posixpath.basename(member.name).startswith("."):
                    stem, suffix = os.path.splitext(member.name)
                    key = posixpath.join(posixpath.dirname(stem), posixpath.basename(member.name).split(".")[0])
                    is_image = suffix.lower() in suffixes
                    (images if is_image else beside).add(key)
                    count += is_image
                if number > _HEAD:
                    break
    except (tarfile.TarError, OSError, EOFError):
        return False  # the reader of WebDatasets says what is wrong
    paired = count > len(images) or bool(images & beside)
    return bool(images) and not paired and any("/" in key.removeprefix("./") for key in images)


def unpack(path: str) -> Path:
    """Unpack an archive, once for each state of it.

    Args:
        path: Of a zip or tar file.

    Raises:
        DatasetError: It is damaged, encrypted, larger than the disk, or has paths that lead out of it.
    """
    state = os.stat(path)
    key = hashlib.sha256(os.fsencode(path) + f" {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:32]
    target = Path(datasets.config.HF_DATASETS_CACHE) / "finetune-archives" / key
    if target.is_dir():
        return target
    name = shown(os.path.basename(path))
    try:
        members, kind = _members(path)
        _check(name, members)
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        size = sum(members.values())
        if size > free:
            raise DatasetError(
                f"{name} unpacks to {size / 2**30:.1f} GiB, and {target.parent} has {free / 2**30:.1f} free: unpack it "
                "yourself and give --dataset the folder, or set HF_DATASETS_CACHE"
            )
        log.info(f"unpacking {name} ({len(members)} files) into {target}")
        # Another process may unpack the same one: each into a folder of its own, and the first stays.
        with tempfile.TemporaryDirectory(dir=target.parent) as own:
            Extractor.extract(path, Path(own) / "files", kind)
            try:
                (Path(own) / "files").rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
        zlib.error,
    ) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"cannot read {name}: {' '.join(str(error).split())[:200] or type(error).__name__}; unpack it yourself and "
            "give --dataset the folder"
        ) from error
    return target


def _members(path: str) -> tuple[dict[str, int], str]:
    """Size of each file, and how `datasets` calls the kind of archive."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            return {member.name: member.size for member in tar if not member.isdir()}, "tar"
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.flag_bits & 1 for info in infos):
            raise RuntimeError("it is encrypted")
        return {info.filename: info.file_size for info in infos}, "zip"


def _check(name: str, members: dict[str, int]) -> None:
    bad = [m for m in members if m.startswith(("/", "\\")) or ".." in m.replace("\\", "/").split("/")]
    if bad:
        raise DatasetError(f"{name} holds a path that leads out of it ({shown(bad[0])}): it is not unpacked")
    suffixes = image_suffixes()
    if not any(os.path.splitext(member)[1].lower() in suffixes for member in members):
        raise DatasetError(f"{name} holds no images ({len(members)} files): unpack it and give --dataset the folder")
