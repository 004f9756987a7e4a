"""The development kit: which classes there are, in which order, and the validation images' labels.

A class index is the place of the WordNet id among the sorted ids of all classes, as torchvision, timm and the Hub's
imagenet-1k have it, and as published weights expect. It is not the devkit's own `ILSVRC2012_ID`.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DatasetError, listing
from finetune.imagenet.tars import check_safe, reading

META = "data/meta.mat"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
LARGEST = 100_000_000  # bytes; the real files have 2.4 MB, a compressed bomb stops here


@dataclass(frozen=True)
class ImageNetClass:
    """One of the classes.

    Attributes:
        wordnet_id: For instance `n01440764`.
        ilsvrc2012_id: The devkit's own number, from 1.
        words: The synset's words, `tench, Tinca tinca`.
        gloss: What they mean.
    """

    wordnet_id: str
    ilsvrc2012_id: int
    words: str
    gloss: str


@dataclass(frozen=True)
class Devkit:
    """What the devkit says.

    Attributes:
        classes: In the order of the class indices.
        validation: Class index of the validation images 1, 2, ..., int64 `[images]`.
    """

    classes: tuple[ImageNetClass, ...]
    validation: np.ndarray

    @property
    def labels(self) -> dict[str, int]:
        """Class index by WordNet id."""
        return {entry.wordnet_id: index for index, entry in enumerate(self.classes)}

    @property
    def names(self) -> list[str]:
        """The classes' words; two cranes are told apart by their WordNet ids."""
        count = Counter(entry.words for entry in self.classes)
        return [e.words if count[e.words] == 1 else f"{e.words} ({e.wordnet_id})" for e in self.classes]


def read(path: Path) -> Devkit:
    """Read `ILSVRC2012_devkit_t12.tar.gz`.

    Raises:
        DatasetError: It is not the devkit, or scipy is not installed.
    """
    found = _members(path)
    classes = _classes(path.name, found[META])
    return Devkit(classes, _validation(path.name, found[TRUTH], classes))


def _members(path: Path) -> dict[str, bytes]:
    """The two files that count; the others are only looked at for unsafe paths."""
    found: dict[str, bytes] = {}
    with reading(path.name), tarfile.open(path, "r:gz") as tar:
        for member in tar:
            check_safe(member, path.name)
            name = member.name.partition("/")[2]
            if name not in (META, TRUTH) or not member.isreg():
                continue
            if name in found:
                raise DatasetError(f"{path.name}: member {member.name!r} is there twice: fetch it again")
            if member.size > LARGEST:
                raise DatasetError(
                    f"{path.name}: member {member.name!r} has {member.size} bytes, expected a few million"
                )
            file = tar.extractfile(member)
            assert file is not None
            found[name] = file.read()
        assert tar.fileobj is not None
        while tar.fileobj.read(1 << 20):  # to gzip's own checksum at the very end
            pass
    missing = [name for name in (META, TRUTH) if name not in found]
    if missing:
        raise DatasetError(f"{path.name} has no {' and no '.join(missing)}: it is not the devkit of tasks 1 and 2")
    return found


def _classes(where: str, meta: bytes) -> tuple[ImageNetClass, ...]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError("reading the devkit's meta.mat needs scipy: pip install 'resnest-timm[imagenet]'") from error
    try:
        rows = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        leaves = [_class(row) for row in rows if int(row["num_children"]) == 0]
    except Exception as error:  # scipy's readers raise whatever they like on broken input
        raise DatasetError(
            f"{where}: {META} cannot be read ({type(error).__name__}: {error}); expected `synsets` with ILSVRC2012_ID, "
            "WNID, words, gloss and num_children: fetch it again"
        ) from error
    for kind in ("wordnet_id", "ilsvrc2012_id"):
        twice = [value for value, n in Counter(getattr(leaf, kind) for leaf in leaves).items() if n > 1]
        if twice:
            raise DatasetError(f"{where}: {META} lists {listing(twice)} twice: fetch it again")
    if len(leaves) < 2:
        raise DatasetError(f"{where}: {META} lists {len(leaves)} classes, expected at least 2: fetch it again")
    return tuple(sorted(leaves, key=lambda leaf: leaf.wordnet_id))


def _class(row: Any) -> ImageNetClass:
    wordnet_id = str(row["WNID"])
    if not re.fullmatch(r"n[0-9]{8}", wordnet_id):
        raise ValueError(f"{wordnet_id!r} is no WordNet id")
    return ImageNetClass(wordnet_id, int(row["ILSVRC2012_ID"]), str(row["words"]), str(row["gloss"]))


def _validation(where: str, truth: bytes, classes: Sequence[ImageNetClass]) -> np.ndarray:
    index = {entry.ilsvrc2012_id: label for label, entry in enumerate(classes)}
    labels = []
    for number, line in enumerate(truth.decode("ascii", "replace").splitlines(), start=1):
        text = line.strip()
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) not in index:
            raise DatasetError(
                f"{where}: {TRUTH}, line {number}: expected the ILSVRC2012_ID of one of {len(classes)} classes, got "
                f"{text[:40]!r}: fetch it again"
            )
        labels.append(index[int(text)])
    return np.array(labels, dtype=np.int64)
