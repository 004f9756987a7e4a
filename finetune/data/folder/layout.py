"""What the folders of a tree say: which are splits, which are classes. Pure: folders in, a decision out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from finetune.data.folder import names

Path = tuple[str, ...]


@dataclass
class Layout:
    """What the folders say of each image.

    Attributes:
        roles: train, validation or test; `""` where there are no split folders, None of an image outside of them.
        columns: Classes by column: `label` alone where there is one reading, else one column a reading.
        outside: Images outside of the split folders, by folder.
        illustrations: Pictures of the README, by folder.
        notes: What was read in a way that has to be said.
    """

    roles: list[str | None]
    columns: dict[str, list[str | None]]
    outside: Counter[str] = field(default_factory=Counter)
    illustrations: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def decide(folders: Sequence[Path], readme: str = "") -> Layout:
    """Read the folders that images lie in.

    Args:
        folders: Of each image, from the root.
        readme: Text of the README; a folder of pictures that it shows is not data.
    """
    distinct = dict.fromkeys(folders)
    pictures = _illustrations(distinct, readme)
    found = [path for path in distinct if not path or path[0] not in pictures]
    notes: list[str] = []
    placed = _place(found, notes)
    inside = {path: rest for path, (role, rest) in placed.items() if role is not None}
    columns = _classes({rest for rest in inside.values() if rest}, notes)
    layout = Layout([], {name: [] for name in columns}, notes=notes)
    depth = min((len(path) - len(rest) for path, rest in inside.items()), default=0)
    for path in folders:
        if path and path[0] in pictures:
            layout.illustrations[path[0]] += 1
        role, rest = placed.get(path, (None, ()))
        layout.roles.append(role)
        if role is None and path in placed:
            layout.outside["/".join(path[:depth]) or "."] += 1
        for name, known in columns.items():
            layout.columns[name].append(known.get(rest) if role is not None else None)
    return layout


def _illustrations(paths: Collection[Path], readme: str) -> set[str]:
    """Folders at the top that hold the pictures of a README and no class."""
    named = {path[0] for path in paths if path and path[0].lower() in names.ILLUSTRATIONS}
    flat = {name for name in named if all(len(path) == 1 for path in paths if path and path[0] == name)}
    others = [path for path in paths if path and path[0] not in flat]
    if not others:
        return set()
    apart = min(map(len, others)) > 1 or any(names.split_name(path[0]) for path in others)
    return {name for name in flat if apart or f"{name}/" in readme}


def _place(paths: Collection[Path], notes: list[str]) -> dict[Path, tuple[str | None, Path]]:
    """The split of each folder, and what of it is left below: the class, and deeper folders."""
    depth, roles = _splits(paths, 0)
    below = {path[depth] for path in paths if len(path) > depth}
    if roles:
        _say_merged(roles, notes)
        inside: dict[str, set[Path]] = {}
        for path in paths:
            if len(path) > depth:
                inside.setdefault(path[depth], set()).add(path[depth + 1 :])
        skip = {name: _passed(rests) for name, rests in inside.items()}
        return {
            path: (roles.get(path[depth]), path[depth + 1 + skip[path[depth]] :]) if len(path) > depth else (None, ())
            for path in paths
        }
    inner = [path for path in paths if len(path) > depth]
    if inner and all(len(path) > depth + 1 and names.split_name(path[depth + 1]) for path in inner):
        notes.append(f"the folders below each class are splits ({_shown({path[depth + 1] for path in inner})})")
        return {
            path: (names.split_name(path[depth + 1]), (path[depth], *path[depth + 2 :]))
            if len(path) > depth
            else (None, ())
            for path in paths
        }
    if (joined := _joined(below)) is not None:
        notes.append(f"the names of folders join split and class ({_shown(below)})")
        return {
            path: (joined[path[depth]][0], (joined[path[depth]][1], *path[depth + 1 :]))
            if len(path) > depth
            else (None, ())
            for path in paths
        }
    suspects = sorted(name for name in below if names.joined(name))
    if len(suspects) > 1 and len({names.role(name) for name in suspects}) > 1:
        notes.append(f"warning: class names with the word of a split ({_shown(suspects)}): they stay classes")
    return {path: ("", path[depth:]) for path in paths}


def _passed(rests: Collection[Path]) -> int:
    """How many folders lead from a split to its classes: one that holds all the others is none."""
    depth = 0
    while (
        all(len(path) > depth + 1 for path in rests)
        and len({path[depth] for path in rests}) == 1
        and len({path[: depth + 2] for path in rests}) > 1
    ):
        depth += 1
    return depth


def _splits(paths: Collection[Path], depth: int) -> tuple[int, dict[str, str]]:
    """How many folders lead to the splits (or classes), and the role of each split folder, if there are any."""
    below = {path[depth] for path in paths if len(path) > depth}
    deeper = {path[depth + 1] for path in paths if len(path) > depth + 1}
    if len(below) == 1 and deeper:
        only = next(iter(below))
        direct = any(len(path) == depth + 1 for path in paths)
        if not direct or len(deeper) > 1:  # a class with one folder more stays a class
            inner, roles = _splits(paths, depth + 1)
            if roles or names.split_name(only) is None:
                return inner, roles
    strict = {name: role for name in below if (role := names.split_name(name)) is not None}
    with_folders = {path[depth] for path in paths if len(path) > depth + 1}
    if with_folders & strict.keys() and "train" in strict.values():
        # Where one of them holds class folders, a test folder of nothing but images is a split too.
        return depth, strict
    if strict and all(name in strict or names.is_aside(name) for name in below):
        return depth, strict
    if "train" in strict.values() and len(set(strict.values())) > 1:
        return depth, strict
    loose = {name: role for name in below if (role := names.role(name)) is not None}
    alike = len({names.rest(name) for name in loose}) == 1 and len(set(loose.values())) > 1
    return depth, loose if alike and len(loose) == len(below) else {}


def _joined(below: Collection[str]) -> dict[str, tuple[str, str]] | None:
    """Split and class of each folder, where all names join them and each split has the same classes."""
    found = {name: pair for name in below if (pair := names.joined(name)) is not None}
    by_role: dict[str, set[str]] = {}
    for role, name in found.values():
        by_role.setdefault(role, set()).add(name)
    sets = list(by_role.values())
    alike = len(sets) > 1 and len(sets[0]) > 1 and all(one == sets[0] for one in sets)
    return found if alike and len(found) == len(below) and "train" in by_role else None


def _classes(rests: Collection[Path], notes: list[str]) -> dict[str, dict[Path, str | None]]:
    """Columns of classes, by what is left of a folder: one, or one a reading."""
    if not rests:
        return {}
    deep: dict[str, set[Path]] = {}
    direct = {path[0] for path in rests if len(path) == 1}
    for path in rests:
        deep.setdefault(path[0], set()).update({path[1:]} if len(path) > 1 else ())
    unsure = sorted(top for top, below in deep.items() if top not in direct and len({p[0] for p in below}) > 1)
    parts_below = all(names.is_part(path[1]) for path in rests if len(path) > 1)
    top = {path: path[0] for path in rests}
    if not unsure or parts_below:
        taken = sorted("/".join(path) for path in rests if len(path) > 1)
        if taken:
            notes.append(f"the class is the first folder: deeper ones belong to it ({_shown(taken)})")
        return {"label": dict(top)}
    if not direct and all(names.is_part(name) for name in deep):
        notes.append(f"folders of parts, not classes: {_shown(deep)}")
        return _classes_below(rests, notes)
    readings: dict[str, dict[Path, str | None]] = {"folder_1": dict(top)}
    depth = max(map(len, rests))
    for level in range(1, depth):
        readings[f"folder_{level + 1}"] = {path: path[level] if len(path) > level else None for path in rests}
    readings["folders"] = {path: "/".join(path) for path in rests}
    for name, reading in readings.items():
        if len(set(reading.values())) < 2:
            readings = {other: values for other, values in readings.items() if other != name}
    notes.append(
        "warning: folders within folders can be read in several ways, each a column: "
        + "; ".join(f"{name} ({_shown(set(filter(None, reading.values())))})" for name, reading in readings.items())
    )
    return readings


def _classes_below(rests: Collection[Path], notes: list[str]) -> dict[str, dict[Path, str | None]]:
    inner = _classes({path[1:] for path in rests}, notes)
    return {name: {path: known.get(path[1:]) for path in rests} for name, known in inner.items()}


def _say_merged(roles: dict[str, str], notes: list[str]) -> None:
    for role, number in Counter(roles.values()).items():
        if number > 1:
            notes.append(f"folders of one split, {role}: {_shown(n for n, r in roles.items() if r == role)}")


def _shown(items: Collection[str] | Iterator[str]) -> str:
    found = sorted(items)
    return ", ".join(found[:6]) + (f", ... ({len(found)} in all)" if len(found) > 6 else "")
