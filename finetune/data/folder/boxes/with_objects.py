"""Images of a folder and the objects on them -> a split of rows each, and the lines that say what was read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, DatasetInfo, Features, Image, NamedSplit
from datasets.table import InMemoryTable

from finetune.console import log
from finetune.data.folder import references
from finetune.data.folder.boxes.objects import Annotations, columns
from finetune.data.folder.names import SPLIT_WORDS
from finetune.data.folder.tree import Tree
from finetune.errors import listing


def splits(root: Path, whole: Tree, found: Tree, made: Annotations) -> DatasetDict:
    """Rows of `image` and `objects`, by split; what was read, and what not, is said.

    Args:
        root: The folder.
        whole: Its tree.
        found: The same, of photographs alone.
        made: The objects of its images.
    """
    by_role: dict[str, list[int]] = {}
    for place, role in sorted(made.roles.items()):
        by_role.setdefault(role, []).append(place)
    key = hashlib.sha256(os.fsencode(root))
    for file in (*whole.images, *whole.tables, *whole.others):
        key.update(f"{file.path} {file.state}\n".encode())
    _say(by_role, made)
    names = [name for name in SPLIT_WORDS if name in by_role]
    return DatasetDict({name: _split(found, made, name, by_role[name], key.hexdigest()) for name in names})


def _split(found: Tree, made: Annotations, name: str, places: list[int], key: str) -> Dataset:
    features, arrays = Features(image=Image()), {"image": references.of([found.images[place] for place in places])}
    for head, (feature, values) in columns(made, places).items():
        features[head] = feature
        arrays[head] = values
    whole: Any = InMemoryTable.from_pydict(arrays, schema=features.arrow_schema)
    own = hashlib.sha256(f"{key} {name}".encode()).hexdigest()[:16]
    return Dataset(whole, DatasetInfo(features=features), NamedSplit(name), fingerprint=own)


def _say(by_role: dict[str, list[int]], made: Annotations) -> None:
    counts = ", ".join(f"{len(by_role[name])} as {name}" for name in SPLIT_WORDS if name in by_role)
    objects = Counter(one.label for of_image in made.objects.values() for one in of_image)
    log.info(
        f"read: {sum(map(len, by_role.values()))} images ({counts}) and {objects.total()} objects of "
        f"{len(made.classes())} classes ({made.kind}: {listing(made.used, 3)})"
    )
    if made.left:
        log.info(f"not read: {'; '.join(made.left)}")
