"""Copies of images in a dataset: which there are, between which splits, and where their targets contradict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data.checks import near
from finetune.data.checks.looks import Looks, chosen
from finetune.data.checks.near import SURE, Pair


@dataclass(frozen=True)
class Copies:
    """What was found among N images.

    Attributes:
        pairs: Equal in bytes, then in pixels, then near; of k equal images k - 1 pairs.
        roles: `<U [N]`, what each image is for.
        contradicting: Bool `[len(pairs)]`, whether the two have other targets.
    """

    pairs: tuple[Pair, ...]
    roles: np.ndarray
    contradicting: np.ndarray

    @property
    def across(self) -> np.ndarray:
        """Bool `[len(pairs)]`, whether the two are for different things."""
        return np.array([self.roles[pair.first] != self.roles[pair.second] for pair in self.pairs], dtype=bool)

    def leaked(self, role: str = "test", source: str = "train") -> np.ndarray:
        """int64, ascending: places of images of a role that have a copy in another."""
        group = self.groups()
        known = {group[place] for place in np.flatnonzero(self.roles == source).tolist()}
        return np.array([p for p in np.flatnonzero(self.roles == role).tolist() if group[p] in known], dtype=np.int64)

    def groups(self) -> np.ndarray:
        """int64 `[N]`: the first place of the copies that an image is one of; itself where there is none."""
        head = np.arange(len(self.roles))
        for pair in sorted(self.pairs, key=lambda one: (one.first, one.second)):
            low, high = sorted((int(head[pair.first]), int(head[pair.second])))
            head[head == high] = low
        return head


def find(
    looks: Looks,
    roles: Sequence[str] | np.ndarray,
    targets: np.ndarray,
    more: Iterable[tuple[int, int]] = (),
    sure: float = SURE,
    differ: Differ | None = None,
) -> Copies:
    """Compare all images with all.

    Args:
        looks: Of N images.
        roles: What each is for.
        targets: `[N, ...]`.
        more: Further candidates, see `finetune.data.checks.near.pairs`.
        sure: Least correlation of near copies.
        differ: See `judged`.
    """
    same, kept = equals(looks)
    back = {int(place): number for number, place in enumerate(kept)}
    hints = [(back[a], back[b]) for a, b in more if a in back and b in back]
    alike = [
        Pair(int(kept[one.first]), int(kept[one.second]), one.kind, one.score, one.mirrored, one.cropped)
        for one in near.pairs(chosen(looks, kept), hints, sure)
    ]
    return judged([*same, *alike], roles, targets, differ)


def equals(looks: Looks) -> tuple[list[Pair], np.ndarray]:
    """Images that are equal in bytes, then in pixels; and int64, places of the first of each kind."""
    exact = equal(looks.content, "bytes")
    twins = {pair.second for pair in exact}
    rest = np.array([place for place in range(len(looks)) if place not in twins], dtype=np.int64)
    pixels = [
        Pair(int(rest[pair.first]), int(rest[pair.second]), "pixels") for pair in equal(looks.pixels[rest], "pixels")
    ]
    twins |= {pair.second for pair in pixels}
    return [*exact, *pixels], np.array([place for place in range(len(looks)) if place not in twins], dtype=np.int64)


Differ = Callable[[int, int, bool], bool]
"""Whether the targets of two whole copies contradict, one perhaps mirrored: `finetune.data.checks.inspecting`'s."""


def judged(
    pairs: Sequence[Pair], roles: Sequence[str] | np.ndarray, targets: np.ndarray, differ: Differ | None = None
) -> Copies:
    """Pairs with what their images are for, and whether their targets contradict.

    Args:
        pairs: Of N images.
        roles: What each is for.
        targets: `[N, ...]`, whole ones; or what splits are drawn by, where `differ` looks at them themselves.
        differ: Of a task whose targets are boxes or masks: those of a part of an image are not compared.
    """

    def odd(pair: Pair) -> bool:
        if differ is None:
            return not np.array_equal(targets[pair.first], targets[pair.second], equal_nan=_floats(targets))
        return not pair.cropped and differ(pair.first, pair.second, pair.mirrored)

    return Copies(tuple(pairs), np.asarray(roles), np.array([odd(pair) for pair in pairs], dtype=bool))


def _floats(targets: np.ndarray) -> bool:
    return bool(targets.dtype.kind == "f")


def equal(hashes: np.ndarray, kind: str) -> list[Pair]:
    """Each image with an equal one before it, the first of its kind.

    Args:
        hashes: uint8 `[N, 16]`.
        kind: `bytes` or `pixels`.
    """
    first: dict[bytes, int] = {}
    found = []
    for place, value in enumerate(hashes):
        key = value.tobytes()
        if key in first:
            found.append(Pair(first[key], place, kind))
        else:
            first[key] = place
    return found


def to_leave_out(copies: Copies) -> Mapping[int, str]:
    """Places that had better be left out, and why: test images stay, of others the first copy; of a contradiction none.

    A contradiction within training tells nothing which target is right, so that none of its images is kept.
    """
    rank = {"test": 0, "validation": 1, "train": 2}
    found: dict[int, str] = {}
    for pair, odd in zip(copies.pairs, copies.contradicting, strict=True):
        both = sorted((pair.first, pair.second), key=lambda place: (rank[str(copies.roles[place])], place))
        stays, goes = both
        mine, theirs = str(copies.roles[stays]), str(copies.roles[goes])
        if mine == theirs == "test":
            continue  # the reported number is of the test split as it is
        found.setdefault(goes, f"{words(pair)} of an image of {mine}{', with another target' if odd else ''}")
        if odd and mine == theirs:
            found.setdefault(stays, f"{words(pair)} of an image of {theirs}, with another target")
    return found


def words(pair: Pair) -> str:
    """What kind of copies they are."""
    if pair.kind != "near":
        return f"copy ({'byte for byte' if pair.kind == 'bytes' else 'pixel for pixel'})"
    how = [name for name, holds in (("mirrored", pair.mirrored), ("cropped", pair.cropped)) if holds]
    return f"near copy ({', '.join([*how, f'{pair.score:.2f}'])})"
