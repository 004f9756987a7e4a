"""Pascal VOC's XML, one file an image; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from finetune.data.folder import matching, names
from finetune.data.folder.boxes.objects import Annotations, Drawn
from finetune.data.folder.tree import File
from finetune.errors import DatasetError, listing

_LARGEST = 2**24  # bytes of the annotation of one image


def files(others: Sequence[File]) -> list[tuple[File, ElementTree.Element]]:
    """The files of a tree that hold the objects of an image, and what is in them.

    Raises:
        DatasetError: One is damaged, or declares a document type: entities can be made to fill the memory.
    """
    made = []
    for file in others:
        if not file.name.lower().endswith(".xml") or int(file.state.split()[0]) > _LARGEST:
            continue
        text = Path(file.place).read_bytes().decode("utf-8-sig", "replace")
        if "<annotation" not in text:
            continue
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DatasetError(f"{file.path} declares a document type or entities, which are not read: take them out")
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise DatasetError(f"cannot read {file.path}: {error}") from error
        if root.tag == "annotation":
            made.append((file, root))
    return made


def read(
    found: Sequence[tuple[File, ElementTree.Element]],
    images: Sequence[File],
    others: Sequence[File],
    roles: Sequence[str | None],
) -> Annotations:
    """Objects of the images that the files are about.

    Args:
        found: What `files` gave.
        images: All of the tree.
        others: Its other files; lists of ImageSets say the splits.
        roles: Split of each image by its folders.

    Raises:
        DatasetError: An object without a class or a box.
    """
    made = Annotations("Pascal VOC", "xyxy", used=[f"{len(found)} XML files"])
    index = matching.Index(images, roles)
    lost: list[str] = []
    for file, root in found:
        at = _image(file, root, index)
        if at is None:
            lost.append(file.path)
            continue
        made.objects[at] = list(_objects(file, root))
        size = [root.findtext(f"size/{name}") or "" for name in ("width", "height")]
        if all(one.strip().isdigit() and int(one) for one in size):
            made.sizes[at] = int(size[0]), int(size[1])
    if lost:
        made.left.append(f"{len(lost)} XML files without an image ({listing(lost, 3)})")
    made.roles = dict(_splits(images, others, index))
    return made


def _image(file: File, root: ElementTree.Element, index: matching.Index) -> int | None:
    """The image of a file: of the same name, else as it says; the nearer one where there are several."""
    stem = posixpath.splitext(file.name)[0]
    for name in (stem, root.findtext("filename") or ""):
        at = index.find(name, file.folders, None) if name else []
        near = [place for place in at if index.images[place].folders[:-1] == file.folders[:-1]]
        for places in (at, near):
            if len(places) == 1:
                return places[0]
    return None


def _objects(file: File, root: ElementTree.Element) -> Iterator[Drawn]:
    # The original counts pixels from 1, and a box holds its last ones; the tools of today write corners from 0.
    original = (root.findtext("source/annotation") or "").upper().startswith("PASCAL VOC")
    for one in root.findall("object"):
        name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
        texts = [box.findtext(side) if box is not None else None for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(text or "") for text in texts)
        except ValueError as error:
            raise DatasetError(f"{file.path}: object {name!r} has the box {texts}: expected four numbers") from error
        if not name:
            raise DatasetError(f"{file.path}: an object without a name: expected its class")
        yield Drawn((left - original, top - original, right, bottom), name)


def _splits(images: Sequence[File], others: Sequence[File], index: matching.Index) -> Iterator[tuple[int, str]]:
    """Splits as ImageSets lists them: train.txt, val.txt, test.txt in its folder Main, or alone in it."""
    lists = [
        (role, other)
        for other in others
        if "ImageSets" in other.folders and (role := names.split_name(posixpath.splitext(other.name)[0])) is not None
    ]
    main = [(role, other) for role, other in lists if other.folders[-1] == "Main"]
    for role, other in main or lists:
        for line in Path(other.place).read_text("utf-8-sig").splitlines():
            if line.split() and len(at := index.find(line.split()[0], (), None)) == 1:
                yield at[0], role
