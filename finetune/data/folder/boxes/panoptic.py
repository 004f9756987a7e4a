"""COCO's panoptic JSON, and the pictures beside it whose colours are ids; https://cocodataset.org/#format-data."""

from __future__ import annotations

import dataclasses
import json
import mmap
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.folder.boxes import coco
from finetune.data.folder.boxes.objects import Annotations
from finetune.data.folder.tree import File, Tree
from finetune.errors import DatasetError, listing

_SEGMENTS = "segments_info"


@dataclass(frozen=True)
class Panoptic:
    """A panoptic file of a tree.

    Attributes:
        file: The JSON.
        held: What is in it.
        pictures: Those that it names, by the name that it gives them; none where they are not there.
    """

    file: File
    held: dict[str, Any]
    pictures: Mapping[str, File]


def find(found: Tree) -> list[Panoptic]:
    """The panoptic files of a tree, with their pictures.

    Raises:
        DatasetError: One is damaged.
    """
    by_folder: dict[tuple[str, ...], dict[str, File]] = {}
    for image in found.images:
        by_folder.setdefault(image.folders, {})[image.name] = image
    made = [(file, held) for file in (*found.tables, *found.others) if (held := _read(file)) is not None]
    return [Panoptic(file, held, _pictures(file, held, by_folder)) for file, held in made]


def without(found: Tree, drawn: Sequence[Panoptic]) -> Tree:
    """The same tree without panoptic files: their pictures are no photographs, nor masks of classes."""
    taken = {id(file) for one in drawn for file in (one.file, *one.pictures.values())}
    images, tables, others = (
        [file for file in files if id(file) not in taken] for files in (found.images, found.tables, found.others)
    )
    return dataclasses.replace(found, images=images, tables=tables, others=others)


def _read(file: File) -> dict[str, Any] | None:
    if not file.name.lower().endswith(".json") or not _has(file, f'"{_SEGMENTS}"'.encode()):
        return None
    try:
        held = json.loads(Path(file.place).read_text("utf-8-sig"))
    except ValueError as error:
        raise DatasetError(f"cannot read {file.path}: {error}") from error
    rows = held.get("annotations") if isinstance(held, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    drawn = all(isinstance(row.get(_SEGMENTS), list) and isinstance(row.get("file_name"), str) for row in rows)
    return held if drawn else None


def _has(file: File, text: bytes) -> bool:
    """Whether a file holds a text; COCO's have hundreds of megabytes, and it may stand anywhere."""
    try:
        with open(file.place, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _pictures(
    file: File, held: dict[str, Any], by_folder: Mapping[tuple[str, ...], Mapping[str, File]]
) -> dict[str, File]:
    """Pictures by name, from the folder that is called as the file, else as panoptic, else the only one that fits."""
    stem = posixpath.splitext(file.name)[0]
    names = {row["file_name"] for row in held["annotations"]}
    photographs = {str(image.get("file_name")) for image in held.get("images") or []}
    own = (*file.folders, stem)
    fitting = [folder for folder, images in by_folder.items() if any(_last(name) in images for name in names)]
    called = [folder for folder in fitting if folder and folder[-1] == stem]
    alike = [folder for folder in fitting if folder and "panoptic" in folder[-1].lower()]
    others = fitting if not photographs & names else []  # of one name with the photographs the folder has to say it
    for folders in ([own] if own in fitting else [], called, alike, others):
        if len(folders) == 1:
            images = by_folder[folders[0]]
            return {name: images[_last(name)] for name in names if _last(name) in images}
    return {}


def _last(name: str) -> str:
    return posixpath.basename(name.replace("\\", "/"))


def read(drawn: Sequence[Panoptic], images: Sequence[File], roles: Sequence[str | None]) -> Annotations:
    """Things of the images that the files name; stuff is none, and counted.

    Args:
        drawn: What `find` gave.
        images: All of the tree, without the pictures.
        roles: Split of each by its folders.

    Raises:
        DatasetError: Two files name one image, a category is not there, or a picture.
    """
    for one in drawn:
        if not one.pictures:
            names = listing((row["file_name"] for row in one.held["annotations"]), 2)
            raise DatasetError(
                f"{one.file.path}: its pictures ({names}) are not there: expected them in the folder "
                f"{posixpath.splitext(one.file.path)[0]}; unpack them there, or move the file away"
            )
    stuff: Counter[str] = Counter()
    flat = [(one.file, _flat(one, stuff)) for one in drawn]
    made = coco.read(flat, images, roles, {one.file.path: dict(_by_image(one)) for one in drawn})
    made.kind = "COCO panoptic"
    if lost := [images[place].path for place in made.objects if place not in made.pictures]:
        raise DatasetError(
            f"{listing(made.used, 3)}: the pictures of {len(lost)} images are not there ({listing(lost, 3)}): expected "
            "one beside the others for each annotation; add them, or take the annotations out"
        )
    if stuff:
        counts = listing((f"{name} {count}" for name, count in stuff.most_common()), 3)
        made.left.append(f"{stuff.total()} segments of stuff, which is no object ({counts})")
    return made


def _flat(one: Panoptic, stuff: Counter[str]) -> dict[str, Any]:
    """The same as COCO has boxes: an annotation a thing. Images without an annotation are not listed."""
    categories = [row for row in one.held.get("categories") or [] if isinstance(row, dict)]
    names = {row.get("id"): str(row.get("name", row.get("id"))) for row in categories if not row.get("isthing", True)}
    annotations = []
    for row in one.held["annotations"]:
        for segment in row[_SEGMENTS]:
            if (kind := segment.get("category_id")) in names:
                stuff[names[kind]] += 1
            else:
                annotations.append({**segment, "image_id": row.get("image_id")})
    return {
        "images": list(_images(one)),
        "annotations": annotations,
        "categories": [row for row in categories if row.get("id") not in names],
    }


def _images(one: Panoptic) -> Iterator[dict[str, Any]]:
    """Images that are annotated; where the file does not list them, as their pictures are called."""
    listed = {image.get("id"): image for image in one.held.get("images") or []}
    for row in one.held["annotations"]:
        stem = posixpath.splitext(_last(row["file_name"]))[0]
        yield listed.get(row.get("image_id")) or {"id": row.get("image_id"), "file_name": stem}


def _by_image(one: Panoptic) -> Iterator[tuple[Any, File]]:
    for row in one.held["annotations"]:
        if (picture := one.pictures.get(row["file_name"])) is not None:
            yield row.get("image_id"), picture
