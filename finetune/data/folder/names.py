"""What the name of a folder or file says: a split, a part of no meaning, or a class."""

from __future__ import annotations

import re

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ILLUSTRATIONS = {"asset", "assets", "doc", "docs", "fig", "figs", "figure", "figures", "media", "readme", "screenshots"}
"""Folders of pictures that belong to a README."""

_ROLES = {word: role for role, words in SPLIT_WORDS.items() for word in words}
_BESIDE = set("data dataset file files folder image images img imgs photo photos pic pics picture pictures".split())
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


def role(name: str) -> str | None:
    """The split whose word is in a name, if it is one."""
    found = {_ROLES[word] for word in words(name) if word in _ROLES}
    return found.pop() if len(found) == 1 else None


def rest(name: str) -> frozenset[str]:
    """The words of a name that are no split's."""
    return frozenset(words(name) - set(_ROLES))


def split_name(name: str) -> str | None:
    """The split that a name is, where it says nothing else: `Training Set`, `test1`, `seg_val`."""
    return role(name) if rest(name) <= _BESIDE else None


def is_part(name: str) -> bool:
    """Whether a folder only holds a part of the images: `images`, `part_2`, `batch-03`."""
    return _PART.fullmatch(name) is not None


def joined(name: str) -> tuple[str, str] | None:
    """Split and class of a name that joins both: `train_cat`, `dog-test`."""
    match = _JOINED.fullmatch(name)
    if match is None:
        return None
    first, after, before, last = match.groups()
    return (_ROLES[first.lower()], after) if first else (_ROLES[last.lower()], before)
