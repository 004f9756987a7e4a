"""Which annotations of objects a folder has beside its images, if any; they are what it is about."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.folder.boxes import coco, corners, panoptic, voc, yolo
from finetune.data.folder.boxes.objects import Annotations
from finetune.data.folder.boxes.panoptic import Panoptic
from finetune.data.folder.tables import Table
from finetune.data.folder.tree import File, Tree


def find(found: Tree, tables: Sequence[Table], drawn: Sequence[Panoptic] = ()) -> Annotations | None:
    """The objects of the images of a tree; None where no file says any.

    Of COCO JSON, its panoptic JSON, VOC's XML, YOLO's texts and tables of corners the first that is there is read: they
    are commonly made from each other.

    Args:
        found: The tree, without what panoptic files are.
        tables: Those of its tables that can be read.
        drawn: Its panoptic files.

    Raises:
        DatasetError: A file is damaged, or means another thing than the others.
    """
    images, others = found.images, sorted([*found.tables, *found.others], key=lambda file: file.path)
    if not images:
        return None
    roles = yolo.splits_by_folders(images)
    made: Annotations | None = None
    if held := coco.files(others):
        made = coco.read(held, images, roles)
    elif drawn:
        made = panoptic.read(drawn, images, roles)
    elif trees := voc.files(others):
        made = voc.read(trees, images, others, roles)
    elif labels := yolo.find(images, others):
        made = yolo.read(labels, images, roles)
    else:
        made = corners.read(tables, images, roles)
    if made is None or not (any(made.objects.values()) or made.pictures):
        return None
    _place(made, images, roles)
    return made


def _place(made: Annotations, images: Sequence[File], roles: Sequence[str | None]) -> None:
    """The split of every image: as the files say, else as its folders do."""
    for place, role in enumerate(roles):
        if role and place not in made.roles:
            made.roles[place] = role
    if not made.roles:
        made.roles = dict.fromkeys(range(len(images)), "train")
    elif lost := [image.path for place, image in enumerate(images) if place not in made.roles]:
        made.left.append(f"{len(lost)} images of no split ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''})")
