"""What lies where in ImageNet's tars: their headers are read, nothing is unpacked.

Structure: `ILSVRC2012_img_train.tar` holds one tar per class, `nXXXXXXXX.tar`, which holds `nXXXXXXXX_N.JPEG`;
`ILSVRC2012_img_val.tar` holds `ILSVRC2012_val_XXXXXXXX.JPEG`, numbered from 1. None is compressed, so that an image is
a range of bytes of the outer tar. Anything else in them is refused: this is input from elsewhere.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from finetune.errors import DatasetError, listing
from finetune.imagenet.workers import advance

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

# One image: its file name, and its bytes' place in the outer tar. 56 bytes each, 72 MB for all of ImageNet.
MEMBERS = np.dtype([("name", "S32"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i8")])

_AGAIN = "this is not the original tar: fetch it again"


@dataclass(frozen=True)
class ClassTar:
    """Where the tar of one class lies in the outer tar: `size` bytes from `offset`."""

    outer: Path
    wordnet_id: str
    label: int
    offset: int
    size: int


def find(folder: Path) -> dict[str, Path]:
    """The three files, by name.

    Raises:
        DatasetError: One is missing.
    """
    paths = {name: folder.expanduser().absolute() / name for name in (TRAIN, VALIDATION, DEVKIT)}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise DatasetError(
            f"--tars: {folder} lacks {' and '.join(missing)}; expected {TRAIN}, {VALIDATION} and {DEVKIT}, as "
            "image-net.org gives them to registered researchers"
        )
    return paths


def find_classes(path: Path, labels: Mapping[str, int]) -> list[ClassTar]:
    """The class tars in the outer train tar.

    Args:
        path: Of the train tar.
        labels: Class index by WordNet id.

    Returns:
        In the order of the class indices.

    Raises:
        DatasetError: A class is missing or unknown, or the tar is not as it should be.
    """
    found = []
    with reading(path.name), tarfile.open(path, "r:") as outer:
        for member in files(outer, path.name, r"n[0-9]{8}\.tar", "nXXXXXXXX.tar"):
            wordnet_id = member.name.removesuffix(".tar")
            if wordnet_id not in labels:
                raise DatasetError(
                    f"{path.name}: {member.name!r} is of a WordNet id that {DEVKIT} does not know; {_AGAIN}"
                )
            found.append(ClassTar(path, wordnet_id, labels[wordnet_id], member.offset_data, member.size))
    missing = sorted(set(labels) - {tar.wordnet_id for tar in found})
    if missing:
        raise DatasetError(f"{path.name} has no tar of {listing(missing)}, which {DEVKIT} lists; {_AGAIN}")
    return sorted(found, key=lambda tar: tar.label)


def scan_class(tar: ClassTar) -> np.ndarray:
    """The images of one class.

    Returns:
        `MEMBERS`, in the tar's order, at least one.

    Raises:
        DatasetError: There is none, or the tar is not as it should be.
    """
    where = f"{tar.outer.name}/{tar.wordnet_id}.tar"
    window = tarfile.TarInfo(f"{tar.wordnet_id}.tar")
    window.offset_data, window.size = tar.offset, tar.size
    with reading(where), tarfile.open(tar.outer, "r:") as outer, _contents(outer, window) as inner:
        pattern, example = rf"{tar.wordnet_id}_[0-9]{{1,10}}\.JPEG", f"{tar.wordnet_id}_N.JPEG"
        images = [
            (m.name, m.offset_data + tar.offset, m.size, tar.label) for m in files(inner, where, pattern, example)
        ]
    if not images:
        raise DatasetError(f"{where} holds no image: an empty class; {_AGAIN}")
    advance(1)
    return np.array(images, dtype=MEMBERS)


def scan_validation(path: Path, labels: np.ndarray) -> np.ndarray:
    """The validation images.

    Args:
        path: Of the validation tar.
        labels: Class index of the images 1, 2, ..., int64.

    Returns:
        `MEMBERS` `[len(labels)]`, by their number.

    Raises:
        DatasetError: Their number is not that of the labels, or the tar is not as it should be.
    """
    with reading(path.name), tarfile.open(path, "r:") as tar:
        pattern, example = r"ILSVRC2012_val_[0-9]{8}\.JPEG", "ILSVRC2012_val_XXXXXXXX.JPEG"
        images = [(m.name, m.offset_data, m.size, -1) for m in files(tar, path.name, pattern, example)]
    members = np.sort(np.array(images, dtype=MEMBERS), order="name")
    if len(members) != len(labels):
        raise DatasetError(
            f"{path.name} holds {len(members)} images, but {DEVKIT} lists {len(labels)} labels of the validation "
            "images: they do not belong together, fetch both again"
        )
    expected = np.array([f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(labels) + 1)], dtype="S32")
    absent = expected[~np.isin(expected, members["name"])]
    if len(absent):
        raise DatasetError(f"{path.name} lacks {listing(name.decode() for name in absent)}; {_AGAIN}")
    members["label"] = labels
    advance(1)
    return members


def files(tar: tarfile.TarFile, where: str, pattern: str, example: str) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, each of which must be a plain file with a name of the pattern.

    Args:
        tar: Opened with mode `r:`.
        where: Its name, for messages.
        pattern: Regular expression of the names.
        example: The same for people.

    Raises:
        DatasetError: A member is no plain file, is empty, or is there twice; a path is unsafe or unexpected; or the tar
            does not end as tars do.
    """
    seen = set()
    end = 0
    for member in tar:
        check_safe(member, where)
        if not member.isreg() or member.issparse() or not re.fullmatch(pattern, member.name):
            raise DatasetError(
                f"{where}: unexpected member {member.name!r} ({_kind(member)}); expected only {example}; {_AGAIN}"
            )
        if member.name in seen:
            raise DatasetError(f"{where}: member {member.name!r} is there twice; {_AGAIN}")
        if member.size < 1:
            raise DatasetError(f"{where}: member {member.name!r} is empty; {_AGAIN}")
        seen.add(member.name)
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield member
    # tarfile takes a damaged header, or a file that is cut between two members, for the end.
    assert tar.fileobj is not None
    tar.fileobj.seek(end)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DatasetError(f"{where} is cut short or damaged at byte {end}: no end of archive; fetch it again")


def check_safe(member: tarfile.TarInfo, where: str) -> None:
    """Refuse what an honest tar of files has no need of, although nothing is ever unpacked.

    Raises:
        DatasetError: A link or a device, an absolute path, or one that climbs.
    """
    if member.issym() or member.islnk() or not (member.isfile() or member.isdir()):
        raise DatasetError(f"{where}: member {member.name!r} is {_kind(member)}, expected plain files; {_AGAIN}")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: member {member.name!r} has an unsafe path; {_AGAIN}")


def _kind(member: tarfile.TarInfo) -> str:
    kinds = {
        "a symbolic link": member.issym(),
        "a hard link": member.islnk(),
        "a device": member.isdev(),  # a FIFO too
        "a folder": member.isdir(),
        "a sparse file": member.issparse(),
        "a file": member.isreg(),
    }
    return next((kind for kind, holds in kinds.items() if holds), f"of type {member.type!r}")


@contextmanager
def _contents(outer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tarfile.TarFile]:
    """A tar within a tar."""
    file = outer.extractfile(member)
    assert file is not None  # only of a member that is no file
    with file, tarfile.open(fileobj=file, mode="r:") as inner:
        yield inner


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Say in our words what goes wrong in a tar."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{where} cannot be read, it is cut short or no tar ({problem}): fetch it again") from error
