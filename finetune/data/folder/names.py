"""What the name of a folder or file says: a split, a part of no meaning, or a class."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ILLUSTRATIONS = {"asset", "assets", "doc", "docs", "fig", "figs", "figure", "figures", "media", "readme", "screenshots"}
"""Folders of pictures that belong to a README."""

_ASIDE = {"unlabeled", "unlabelled", "unsupervised", "pred", "predict", "prediction", "predictions", "submission"}
_MASKS = {"mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "segmentationclass", "labels"}
_MASKS |= {"label", "ann", "anns", "gt", "gtfine", "groundtruth", "segmap", "segmaps"}
_ANY = {"dir", "leftimg", "bit"}  # of a folder of either: mmsegmentation's img_dir and ann_dir, Cityscapes' leftImg8bit
_YES = ("1", "1.0", "true")
_ROLES = {word: role for role, words in SPLIT_WORDS.items() for word in words}
_BESIDE = set(
    "data dataset file files folder image images jpegimages img imgs photo photos pic pics picture pictures".split()
)
_BESIDE |= {"seg", "set", "split", "splits"}
_PART = re.compile(
    r"(.*[\W_])?(part|batch|chunk|shard|fold|folder|dir|subset|group|session|images?|imgs?|pics?|photos?|data|files?)"
    r"[\W_]*\d*",
    re.IGNORECASE,
)
_JOINED = re.compile(rf"(?:({'|'.join(_ROLES)})[\W_]+(.+)|(.+)[\W_]+({'|'.join(_ROLES)}))", re.IGNORECASE)


def words(name: str) -> set[str]:
    """Of a name, in lower case, without digits."""
    return {word for word in re.split(r"[\W_\d]+", name.lower()) if word}


@lru_cache(maxsize=4096)
def role(name: str) -> str | None:
    """The split whose word is in a name, if it is one."""
    found = {_ROLES[word] for word in words(name) if word in _ROLES}
    return found.pop() if len(found) == 1 else None


def rest(name: str) -> frozenset[str]:
    """The words of a name that are no split's."""
    return frozenset(words(name) - set(_ROLES))


def is_aside(name: str) -> bool:
    """Whether a folder beside split folders holds images without labels: `unlabeled`, `seg_pred`."""
    return bool(words(name) & _ASIDE)


def flag(head: str, values: Collection[Any]) -> str | None:
    """The split of the rows where a column is true, of a column that is called so: `is_valid`, `is_test`.

    Args:
        head: Of the column.
        values: In it.
    """
    match = re.fullmatch(r"is[_\W]?(.+?)([_\W]?(image|set|split))?", head.lower())
    found = _ROLES.get(match[1]) if match else None
    known = {str(value).lower() for value in values if value is not None} <= set(_YES) | {"0", "0.0", "false"}
    return found if known else None


def flagged(role: str, value: Any) -> str | None:
    """The split of a row by its value in such a column."""
    if value is None:
        return None
    other = "test" if role == "train" else "train"
    return role if str(value).lower() in _YES else other


def split_name(name: str) -> str | None:
    """The split that a name is, where it says nothing else: `Training Set`, `test1`, `seg_val`."""
    return role(name) if rest(name) <= _BESIDE else None


def is_part(name: str) -> bool:
    """Whether a folder only holds a part of the images: `images`, `part_2`, `batch-03`."""
    return _PART.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def kind(name: str) -> str | None:
    """Whether a folder is called as one of `images` or of `masks`, whatever the split; None of others."""
    said = rest(name)
    if said and said <= _MASKS | _BESIDE | _ANY:
        alone = said == {"seg"} and role(name) is None  # seg_train holds images
        return "masks" if said & _MASKS or alone else "images"
    return None


def joined(name: str) -> tuple[str, str] | None:
    """Split and class of a name that joins both: `train_cat`, `dog-test`."""
    match = _JOINED.fullmatch(name)
    if match is None:
        return None
    first, after, before, last = match.groups()
    return (_ROLES[first.lower()], after) if first else (_ROLES[last.lower()], before)
