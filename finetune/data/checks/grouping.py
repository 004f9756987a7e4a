"""Signs that images belong together: columns of patients or scenes, and names of files that say the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from finetune.data.checks.findings import Finding

COLUMNS = re.compile(
    r"(^|_)(patient|subject|person|individual|animal|scene|video|clip|sequence|case|slide|session|site|plate|group|"
    r"camera|location|study)(s|_?id|_?name|_?no|_?number)?$",
    re.IGNORECASE,
)
"""Names of columns that say what an image is one of."""
_NUMBERED = re.compile(r"^(?P<of>.*\d.*|.*[A-Za-z].*?)[-_. ]+(?:img|image|frame|slice|view|crop|f|s)?[-_. ]?\d+$", re.I)
FEWEST = 3
"""Images of a group at least on average, so that it is one."""


def in_columns(columns: Mapping[str, Sequence[object]], roles: np.ndarray) -> Iterator[Finding]:
    """Columns whose name says so, and whose values repeat.

    Args:
        columns: By name, values of all N images.
        roles: What each image is for.
    """
    for name, values in columns.items():
        if COLUMNS.search(name) and _repeats(values):
            shared = _shared(values, roles)
            flag = f"--group-column {name}"
            title = f"column {name!r} says which images belong together: {len(set(map(str, values)))} groups"
            if shared:
                yield Finding("groups", "serious", f"{title}; {shared}", (f"hold them out together by {flag}",))
            else:
                yield Finding("groups", "note", f"{title}; no group is in training and in test")


def in_names(names: Sequence[str], targets: np.ndarray, roles: np.ndarray) -> Iterator[Finding]:
    """Names that are numbered within something: `patient12_img3.png`, `scene_004_frame_0021.jpg`.

    What a class is called is no group: where every target has one such prefix, nothing is said.

    Args:
        names: Of files; empty where there is none.
        targets: `[N, ...]`.
        roles: What each image is for.
    """
    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in names]
    found = [match["of"] if (match := _NUMBERED.match(stem)) else "" for stem in stems]
    if not found or sum(map(bool, found)) < 0.8 * len(found):
        return
    groups = len(set(found))
    labels = {str(target) for target in targets.tolist()}
    pairs = {(of, str(target)) for of, target in zip(found, targets.tolist(), strict=True)}
    if groups < 5 or len(found) < FEWEST * groups or (len(pairs) == groups and groups <= 2 * len(labels)):
        return
    shared = _shared(found, roles)
    if shared:
        most = Counter(found).most_common(1)[0]
        yield Finding(
            "groups",
            "warning",
            f"file names look like {groups} groups, such as {most[0]!r} with {most[1]} images; {shared}",
            ("if they are of one patient, scene or video, put that into a column and name it by --group-column",),
        )


def _repeats(values: Sequence[object]) -> bool:
    return FEWEST * len(set(map(str, values))) <= 2 * len(values) and len(set(map(str, values))) > 1


def _shared(values: Sequence[object], roles: np.ndarray) -> str:
    """How much of test is of groups that are in training too; empty where nothing is."""
    of = np.array(list(map(str, values)))
    known = set(of[roles == "train"].tolist())
    test = of[roles == "test"].tolist()
    count = sum(value in known for value in test)
    return f"{count} of {len(test)} test images are of a group that is in training too" if count else ""
