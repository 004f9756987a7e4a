"""YOLO's text files, one an image: class, centre, width and height in parts of the image; or class and a polygon.

https://docs.ultralytics.com/datasets/detect/ describes them, and data.yaml, which names the classes and the splits.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from finetune.data.folder import matching, names
from finetune.data.folder.boxes.objects import Annotations, Drawn
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_NAMES = ("classes.txt", "obj.names", "labels.txt", "classes.names")
_LABELS, _IMAGES = "labels", "images"


@dataclass(frozen=True)
class Found:
    """Label files of a tree.

    Attributes:
        labels: By place of the image.
        config: What data.yaml says; empty where there is none.
        file: That data.yaml.
        names: A file with a name of a class a line.
    """

    labels: dict[int, File]
    config: Mapping[str, Any]
    file: File | None
    names: File | None


def find(images: Sequence[File], others: Sequence[File]) -> Found | None:
    """The label files of images; None where there are none.

    Args:
        images: Of the tree.
        others: Its other files.

    Raises:
        DatasetError: A data.yaml is no YAML.
    """
    texts = {(file.folders, posixpath.splitext(file.name)[0]): file for file in others if file.name.endswith(".txt")}
    config, file = _config(others)
    labels = {place: text for place, image in enumerate(images) if (text := _label(image, texts)) is not None}
    named = next((other for other in others if other.name.lower() in _NAMES), None)
    if not labels:
        return None
    told = file is not None or any(_LABELS in text.folders for text in labels.values())
    if not told and not all(_is_numbers(text) for text in labels.values()):
        return None  # captions, or notes
    return Found(labels, config, file, named)


def _config(others: Sequence[File]) -> tuple[Mapping[str, Any], File | None]:
    for file in others:
        if file.name.lower().endswith((".yaml", ".yml")):
            try:
                held = yaml.safe_load(Path(file.place).read_text("utf-8-sig"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                if file.name.lower().startswith("data."):
                    raise DatasetError(f"cannot read {file.path}: {' '.join(str(error).split())[:200]}") from error
                continue
            if isinstance(held, dict) and isinstance(held.get("names"), list | dict):
                return held, file
    return {}, None


def _label(image: File, texts: Mapping[tuple[tuple[str, ...], str], File]) -> File | None:
    """The text of an image: in the folder `labels` in place of `images`, in one beside, or in its own folder."""
    folders, stem = image.folders, posixpath.splitext(image.name)[0]
    places = [place for place, folder in enumerate(folders) if folder.lower() == _IMAGES]
    swapped = [(*folders[:place], _LABELS, *folders[place + 1 :]) for place in reversed(places)]
    for where in (*swapped, (*folders, _LABELS), (*folders[:-1], _LABELS), folders):
        if (found := texts.get((where, stem))) is not None:
            return found
    return None


def _is_numbers(file: File) -> bool:
    try:
        lines = Path(file.place).read_text("utf-8-sig").split("\n")
        rows = [[float(one) for one in line.split()] for line in lines if line.strip()]
    except (ValueError, OSError):
        return False
    return all(len(row) >= 5 and row[0] == int(row[0]) for row in rows)


def read(found: Found, images: Sequence[File], roles: Sequence[str | None]) -> Annotations:
    """Objects of the images.

    Args:
        found: What `find` gave.
        images: All of the tree.
        roles: Split of each by its folders.

    Raises:
        DatasetError: A line is none, or of a class without a name.
    """
    made = Annotations("YOLO", "cxcywh-normalised", used=[found.file.path] if found.file else [])
    made.used.append(f"{len(found.labels)} label files")
    known = _class_names(found)
    numbered: set[int] = set()
    for place, file in found.labels.items():
        made.objects[place] = []
        for number, one in _lines(file):
            if known and number not in known:
                raise DatasetError(f"{file.path}: class {number} has no name; there are {listing(known.items())}")
            numbered.add(number)
            one.label = known.get(number, f"class {number}")
            made.objects[place].append(one)
    made.names = list(known.values()) or [f"class {number}" for number in sorted(numbered)]
    made.roles = dict(_splits(found, images))
    _negatives(made, images, roles)
    return made


def _class_names(found: Found) -> dict[int, str]:
    said = found.config.get("names")
    if said is None and found.names is not None:
        said = [line.strip() for line in Path(found.names.place).read_text("utf-8-sig").splitlines() if line.strip()]
    if isinstance(said, dict):
        return {int(number): str(name) for number, name in sorted(said.items(), key=lambda item: int(item[0]))}
    return {number: str(name) for number, name in enumerate(said or [])}


def _lines(file: File) -> Iterator[tuple[int, Drawn]]:
    for place, line in enumerate(Path(file.place).read_text("utf-8-sig").splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            number, values = int(float(parts[0])), [float(one) for one in parts[1:]]
        except ValueError as error:
            raise _wrong(file, place, line) from error
        if len(values) in (4, 5):  # the fifth is how sure a model was
            yield number, Drawn(values[:4], "")
        elif len(values) >= 6 and len(values) % 2 == 0:
            xs, ys = values[::2], values[1::2]
            box = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys))
            yield number, Drawn(box, "", polygons=[values])
        else:
            raise _wrong(file, place, line)


def _wrong(file: File, place: int, line: str) -> DatasetError:
    return DatasetError(
        f"{file.path}, line {place}: {line[:60]!r}: expected a class and four numbers (centre, width, height), or a "
        "class and the points of a polygon"
    )


def _splits(found: Found, images: Sequence[File]) -> Iterator[tuple[int, str]]:
    """Splits that data.yaml says, by folders or by lists of images."""
    if found.file is None:
        return
    index = matching.Index(images, [""] * len(images))
    for key, role in (("train", "train"), ("val", "validation"), ("valid", "validation"), ("test", "test")):
        said = found.config.get(key)
        for entry in said if isinstance(said, list) else [said]:
            if not isinstance(entry, str):
                continue
            if entry.endswith(".txt"):
                yield from _listed(found.file, entry, index, role)
                continue
            parts = tuple(part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("..", "/"))
            for place, image in enumerate(images):
                if parts and any(image.folders[n : n + len(parts)] == parts for n in range(len(image.folders))):
                    yield place, role


def _listed(config: File, entry: str, index: matching.Index, role: str) -> Iterator[tuple[int, str]]:
    path = Path(config.place).parent / Path(entry).name
    if path.is_file():
        for line in path.read_text("utf-8-sig").splitlines():
            if line.strip() and len(at := index.find(line, config.folders, None)) == 1:
                yield at[0], role


def _negatives(made: Annotations, images: Sequence[File], roles: Sequence[str | None]) -> None:
    """Images without a label file hold no object, where others of their split have one."""
    split = [made.roles.get(place, role) for place, role in enumerate(roles)]
    annotated = {split[place] for place in made.objects}
    without = [place for place in range(len(images)) if place not in made.objects and split[place] in annotated]
    made.objects.update({place: [] for place in without})
    if without:
        shown = listing((images[place].path for place in without), 3)
        made.left.append(f"no label file of {len(without)} images ({shown}): taken as images without objects")


def splits_by_folders(images: Sequence[File]) -> list[str | None]:
    """The split that any folder of an image is called as; `""` where none is."""
    found = [next((role for name in image.folders if (role := names.split_name(name))), "") for image in images]
    return list(found)
