"""Images and masks in one tree, each image with the mask of its name: in folders of their own, or side by side."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, NamedSplit
from datasets.table import InMemoryTable

from finetune.data.folder import names
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

Key = tuple[str | None, tuple[str, ...], str]
"""Split, folders that say nothing of it, and stem of an image and its mask."""

_OF_MASKS = re.compile(
    r"(.+?)[_\-. ](masks?|labels?|labelids|gt|seg|segmentations?|annotations?|gtfine_labelids|l)", re.IGNORECASE
)
_OF_IMAGES = re.compile(r"(.+?)[_\-. ](image|img|sat|rgb|leftimg8bit)", re.IGNORECASE)


@dataclass
class Pairs:
    """Images and their masks.

    Attributes:
        rows: By split, each image and its mask, or None.
        left: What is in no pair, for the line that says it.
        how: Where the masks lie, for the line that says what was read.
    """

    rows: dict[str, list[tuple[File, File | None]]]
    left: list[str] = field(default_factory=list)
    how: str = ""


def find(images: Sequence[File]) -> Pairs | None:
    """Pair the images of a tree with their masks.

    Args:
        images: All of them, masks too.

    Returns:
        None where there are no masks: most of them would have the name of an image.

    Raises:
        DatasetError: Several masks, or images, have one name.
    """
    apart = [(file, _kind(file) == "masks") for file in images]
    if any(is_mask for _, is_mask in apart):
        return _paired(apart, "masks in folders beside those of images", anywhere=True)
    apart = [(file, _OF_MASKS.fullmatch(_stem(file)) is not None) for file in images]
    if any(is_mask for _, is_mask in apart):
        return _paired(apart, "masks beside images, by their names", anywhere=False)
    return None


def _paired(apart: Sequence[tuple[File, bool]], how: str, anywhere: bool) -> Pairs | None:
    pictures = [file for file, is_mask in apart if not is_mask]
    masks = [file for file, is_mask in apart if is_mask]
    exact = {_key(file, None): file for file in pictures}
    loose = {_key(file, _OF_IMAGES): file for file in pictures}
    found: dict[int, list[File]] = {}
    lost = []
    for mask in masks:
        image = _partner(mask, exact, loose, anywhere)
        if image is None:
            lost.append(mask)
        else:
            found.setdefault(id(image), []).append(mask)
    known = sum(id(file) in found for file in pictures)
    if 2 * known <= (len(masks) if anywhere else len(pictures)) or 2 * len(lost) > len(masks) + known:
        return None
    for file in pictures:
        if len(found.get(id(file), ())) > 1:
            raise DatasetError(
                f"{len(found[id(file)])} masks could be that of {file.path} "
                f"({listing((mask.path for mask in found[id(file)]), 3)}): expected one; move the others out of the "
                "folder"
            )
    return _split(pictures, {key: same[0] for key, same in found.items()}, lost, how)


def _partner(mask: File, exact: dict[Key, File], loose: dict[Key, File], anywhere: bool) -> File | None:
    """The image of a mask; in a folder of masks it may have the very name of its image."""
    keys = [_key(mask, None)] if anywhere else []
    keys.append(_key(mask, _OF_MASKS))
    return next((images[key] for key in keys for images in (exact, loose) if key in images), None)


def _split(pictures: Sequence[File], mask_of: dict[int, File], lost: Sequence[File], how: str) -> Pairs:
    made = Pairs({}, how=how)
    roles = {id(file): _key(file, None)[0] for file in pictures}
    outside = []
    for file in pictures:
        role = roles[id(file)]
        if role is None and any(roles.values()):
            outside.append(file)
        else:
            made.rows.setdefault(role or "train", []).append((file, mask_of.get(id(file))))
    if lost:
        made.left.append(f"{len(lost)} masks without an image ({listing((file.path for file in lost), 3)})")
    if outside:
        shown = listing((file.path for file in outside), 3)
        made.left.append(f"{len(outside)} images outside of the split folders ({shown})")
    made.rows = {name: made.rows[name] for name in names.SPLIT_WORDS if name in made.rows}
    return made


def _kind(file: File) -> str | None:
    return next((found for folder in file.folders if (found := names.kind(folder)) is not None), None)


def _key(file: File, suffix: re.Pattern[str] | None) -> Key:
    """By what an image and its mask are alike; `suffix` is what either has behind the name that they share."""
    role, rest, kind = None, [], None
    for folder in file.folders:
        found = names.kind(folder) if kind is None else None
        if found is not None or names.split_name(folder) is not None:
            role = names.role(folder) or role
            kind = kind or found
        else:
            rest.append(folder)
    stem = _stem(file)
    match = suffix.fullmatch(stem) if suffix else None
    return role, tuple(rest), match[1] if match else stem


def _stem(file: File) -> str:
    return os.path.splitext(file.name)[0]


def dataset(
    rows: Sequence[tuple[File, File | None]], split: str, key: str, references: Callable[[Sequence[File]], pa.Array]
) -> Dataset:
    """Images and masks as two columns; nothing is decoded.

    Args:
        rows: Each image and its mask.
        split: Name of the split.
        key: Changes with the files of the folder.
        references: Files -> structs of `bytes` and `path`.
    """
    features = Features(image=Image(), mask=Image())
    masks = references([mask for _, mask in rows if mask is not None])
    places = iter(range(len(masks)))
    chosen = pa.array([None if mask is None else next(places) for _, mask in rows], pa.int64())
    arrays = {"image": references([image for image, _ in rows]), "mask": masks.take(chosen)}
    table = InMemoryTable.from_pydict(arrays, schema=features.arrow_schema)
    own = hashlib.sha256(f"{key} masks {split}".encode()).hexdigest()[:16]
    return Dataset(table, DatasetInfo(features=features), NamedSplit(split), fingerprint=own)
