"""COCO's JSON of images, annotations and categories; https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.folder import matching, named, names
from finetune.data.folder.boxes.objects import Annotations, Drawn
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_HEAD = 2**16  # bytes by which a file is told
_MASKS = ("segmentation", "mask", "mask_path", "mask_file", "mask_file_name")
_OTHERS = re.compile(r"(captions|person_keypoints|stuff|panoptic|image_info)_", re.IGNORECASE)


def files(found: Sequence[File]) -> list[tuple[File, dict[str, Any]]]:
    """The files of a tree that hold boxes in COCO's form, and what is in them.

    Raises:
        DatasetError: One is damaged.
    """
    made = [(file, held) for file in found if (held := _read(file)) is not None]
    instances = [(file, held) for file, held in made if not _OTHERS.match(file.name)]
    return instances or made


def _read(file: File) -> dict[str, Any] | None:
    if not file.name.lower().endswith(".json"):
        return None
    with open(file.place, "rb") as stream:
        head = stream.read(_HEAD)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or b'"' not in head:
        return None
    if len(head) < _HEAD and not all(f'"{name}"'.encode() in head for name in ("images", "annotations")):
        return None
    try:
        held = json.loads(Path(file.place).read_text("utf-8-sig"))
    except ValueError as error:
        if b'"annotations"' not in head and b'"images"' not in head:
            return None
        raise DatasetError(f"cannot read {file.path}: {error}") from error
    lists: list[Any] = [held.get(name) for name in ("images", "annotations")] if isinstance(held, dict) else []
    if len(lists) != 2 or not all(isinstance(one, list) and all(isinstance(row, dict) for row in one) for one in lists):
        return None
    boxed = any("bbox" in row for row in lists[1])
    return held if boxed or (not lists[1] and held.get("categories") is not None) else None


def read(
    found: Sequence[tuple[File, dict[str, Any]]],
    images: Sequence[File],
    roles: Sequence[str | None],
    pictures: Mapping[str, Mapping[Any, File]] | None = None,
) -> Annotations:
    """Objects of the images that the files name.

    Args:
        found: What `files` gave.
        images: All of the tree.
        roles: Split of each by its folders.
        pictures: In which objects are drawn, by path of the file and id of the image.

    Raises:
        DatasetError: Two files name one image, or a category is not there.
    """
    made = Annotations("COCO JSON", "xywh", used=[file.path for file, _ in found])
    index = matching.Index(images, roles)
    owner: dict[int, str] = {}
    order: dict[str, None] = {}
    lost: list[str] = []
    for file, held in found:
        categories = _categories(file, held, found)
        order |= dict.fromkeys(categories.values())
        role = _role(file)
        places = _places(file, held, role, index, lost)
        for image in held["images"]:
            if (place := places.get(image.get("id"))) is None:
                continue
            if owner.setdefault(place, file.path) != file.path:
                raise DatasetError(
                    f"{owner[place]} and {file.path} both name {images[place].path}: choose one of them by "
                    f"--dataset FOLDER/{file.path}, or move the other away"
                )
            made.objects.setdefault(place, [])
            if role is not None and (len(found) > 1 or not any(roles)):
                made.roles[place] = role
            if isinstance(image.get("width"), int) and isinstance(image.get("height"), int):
                made.sizes[place] = image["width"], image["height"]
            if (picture := (pictures or {}).get(file.path, {}).get(image.get("id"))) is not None:
                made.pictures[place] = picture
        for place, one, mask in _objects(file, held, categories, places):
            if mask is not None:
                one.mask = _mask(mask, file, images[place])
            made.objects[place].append(one)
    if lost:
        made.left.append(f"{len(lost)} images of {listing(made.used, 3)} that are not there ({listing(lost, 3)})")
    made.names = list(order)
    return made


def _mask(path: str, file: File, image: File) -> str:
    """The file of a mask, by its path from the image's folder, or that of the annotations, or one above."""
    place, depth = Path(image.place), len(image.folders)
    # Of an unpacked archive the folders are not those on the disk: counting them would lead out of it.
    root = place.parents[depth] if place.parts[-1 - depth : -1] == image.folders else place.parent
    return named.resolved(path, [Path(image.place).parent, Path(file.place).parent], root)


def _places(
    file: File, held: dict[str, Any], role: str | None, index: matching.Index, lost: list[str]
) -> dict[Any, int]:
    """The image of each id; names of those that are not there are added to `lost`."""
    places: dict[Any, int] = {}
    for image in held["images"]:
        name = str(image.get("file_name", ""))
        at = index.find(name, file.folders, None) if name else []
        if len(at) > 1 and role is not None:
            at = index.find(name, file.folders, role)
        if len(at) == 1:
            places[image.get("id")] = at[0]
        else:
            lost.append(name)
    return places


def _role(file: File) -> str | None:
    """The split that a file's name, or its folder, says."""
    own = names.role(re.sub(r"\.coco$", "", file.name.rsplit(".", 1)[0]))
    above = (names.split_name(folder) for folder in reversed(file.folders))
    return own or next((role for role in above if role), None)


def _categories(file: File, held: dict[str, Any], found: Sequence[tuple[File, dict[str, Any]]]) -> dict[Any, str]:
    """Name of each id; what is only the family of others, and of no object, is none (as Roboflow writes it)."""
    rows = [row for row in held.get("categories") or [] if isinstance(row, dict)]
    used = {one.get("category_id") for _, other in found for one in other["annotations"]}
    families = {row.get("supercategory") for row in rows if row.get("name") != row.get("supercategory")}
    kept = [row for row in rows if row.get("id") in used or row.get("name") not in families]
    made = {row.get("id"): str(row.get("name", f"class {row.get('id')}")) for row in kept}
    twice = [name for name, number in Counter(made.values()).items() if number > 1]
    if twice:
        made = {number: f"{name} ({number})" if name in twice else name for number, name in made.items()}
    if not rows:  # ids without names
        made = {number: f"class {number}" for number in sorted(used, key=str)}
    own = {one.get("category_id") for one in held["annotations"]}
    if lost := sorted((number for number in own if number not in made), key=str):
        raise DatasetError(
            f"{file.path}: annotations of categories {listing(lost)}, which it does not list; it has {listing(made)}"
        )
    return made


def _objects(
    file: File, held: dict[str, Any], categories: dict[Any, str], places: dict[Any, int]
) -> Iterator[tuple[int, Drawn, str | None]]:
    """Objects, with the place of their image and the path of their mask, where that is how it is said."""
    ids = {image.get("id") for image in held["images"]}
    strange = [one for one in held["annotations"] if one.get("image_id") not in ids]
    if strange:
        raise DatasetError(
            f"{file.path}: {len(strange)} annotations of images that it does not list (image_id "
            f"{listing(dict.fromkeys(str(one.get('image_id')) for one in strange), 5)}): take them out"
        )
    for one in held["annotations"]:
        if one["image_id"] not in places:
            continue
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or any(not isinstance(side, int | float) for side in box):
            raise DatasetError(f"{file.path}: annotation {one.get('id')} has bbox {box}: expected x, y, width, height")
        outline = one.get("segmentation")
        polygons = outline if isinstance(outline, list) else []
        if polygons and not isinstance(polygons[0], list):
            polygons = [polygons]
        area = one.get("area")
        yield (
            places[one["image_id"]],
            Drawn(
                box,
                categories[one["category_id"]],
                float(area) if isinstance(area, int | float) else None,
                bool(one.get("iscrowd")),
                [[float(number) for number in part] for part in polygons],
                outline if isinstance(outline, dict) else None,
                number if isinstance(number := one.get("id"), int) else None,
            ),
            next((path for name in _MASKS if named.is_path(path := one.get(name))), None),
        )
