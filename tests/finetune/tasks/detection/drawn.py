"""A tiny drawn set of objects, and the same written in every form that is read."""

import csv
import io
import json
from dataclasses import dataclass, field

import numpy as np
import yaml
from datasets import ClassLabel as Classes
from datasets import Dataset, DatasetDict, Features, List, Sequence, Value
from datasets import Image as ImageFeature
from faster_coco_eval import mask as coco
from PIL import Image, ImageDraw

from finetune.data import dataset
from finetune.tasks.detection import schema
from finetune.tasks.detection.loading.datamodule import inputs

NAMES = ("ant", "bee", "cow")
SIZES = {"train": 14, "validation": 4, "test": 4}


@dataclass
class Picture:
    """An image and its objects: boxes xyxy in pixels, classes, polygons."""

    name: str
    image: Image.Image
    boxes: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    polygons: list = field(default_factory=list)

    @property
    def size(self):
        return self.image.size

    def xywh(self):
        return [[a, b, c - a, d - b] for a, b, c, d in self.boxes]

    def areas(self):
        return [(c - a) * (d - b) for a, b, c, d in self.boxes]

    def centres(self):
        w, h = self.size
        return [[(a + c) / 2 / w, (b + d) / 2 / h, (c - a) / w, (d - b) / h] for a, b, c, d in self.boxes]

    def rles(self):
        w, h = self.size
        return [coco.merge(coco.frPyObjects([polygon], h, w)) for polygon in self.polygons]


def pictures(split, seed=0):
    """Images of several shapes; the third of each split has no object. Objects are hexagons that touch their box."""
    rng = np.random.default_rng((seed, list(SIZES).index(split)))
    made = []
    for number in range(SIZES[split]):
        w, h = [(64, 48), (48, 64), (56, 56)][number % 3]
        image = Image.fromarray(rng.integers(0, 60, (h, w, 3), dtype=np.uint8))
        one = Picture(f"{split}_{number:02}", image)
        for _ in range(0 if number == 2 else 1 + number % 3):
            bw, bh = (int(side) for side in rng.integers(10, 24, 2) // 2 * 2)
            x, y = int(rng.integers(0, w - bw + 1)), int(rng.integers(0, h - bh + 1))
            label = int(rng.integers(0, 3))
            polygon = [x, y + bh // 2, x + bw // 4, y, x + bw - bw // 4, y, x + bw, y + bh // 2]
            polygon += [x + bw - bw // 4, y + bh, x + bw // 4, y + bh]
            colour = [(250, 60, 60), (60, 250, 60), (60, 60, 250)][label]
            ImageDraw.Draw(image).polygon([float(p) for p in polygon], fill=colour)
            one.boxes.append([x, y, x + bw, y + bh])
            one.labels.append(label)
            one.polygons.append([float(p) for p in polygon])
        made.append(one)
    return made


ALL = {split: pictures(split) for split in SIZES}


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- datasets --------------------------------------------------------------------------------------------------------

FLOATS, INTS = List(Value("float32")), List(Value("int64"))


def dataset_of(features, row):
    """A DatasetDict whose rows are made from pictures."""
    whole = Features({"image": ImageFeature()} | features)
    return DatasetDict(
        {
            split: Dataset.from_list(
                [{"image": {"bytes": png(one.image), "path": None}} | row(one) for one in of_split], features=whole
            )
            for split, of_split in ALL.items()
        }
    )


def objects(box, category, **more):
    return {"objects": {"bbox": List(FLOATS if box is None else box), "category": List(category), **more}}


def names_of(one):
    return [NAMES[label] for label in one.labels]


HUB = {
    "cppe-5: a struct of lists": lambda: dataset_of(
        objects(None, Classes(names=list(NAMES)), id=INTS, area=INTS)
        | {"width": Value("int64"), "height": Value("int64")},
        lambda o: {
            "objects": {"bbox": o.xywh(), "category": o.labels, "id": list(range(len(o.labels))), "area": o.areas()},
            "width": o.size[0],
            "height": o.size[1],
        },
    ),
    "a list of structs, corners": lambda: dataset_of(
        {"annotations": List({"bbox": FLOATS, "category_id": Value("int64"), "category_name": Value("string")})},
        lambda o: {
            "annotations": [
                {"bbox": b, "category_id": 7 * n, "category_name": NAMES[n]}
                for b, n in zip(o.boxes, o.labels, strict=True)
            ]
        },
    ),
    "a Sequence of structs": lambda: dataset_of(
        {"objects": Sequence({"bbox": Sequence(Value("float32"), length=4), "label": Classes(names=list(NAMES))})},
        lambda o: {"objects": {"bbox": o.boxes, "label": o.labels}},
    ),
    "top level": lambda: dataset_of(
        {"bbox": List(FLOATS), "area": FLOATS, "category": List(Value("string")), "iscrowd": INTS},
        lambda o: {"bbox": o.xywh(), "area": o.areas(), "category": names_of(o), "iscrowd": [0] * len(o.labels)},
    ),
    "three times the same": lambda: dataset_of(
        {
            "height": Value("int64"),
            "width": Value("int64"),
            "bbox": List(FLOATS),
            "label": INTS,
            "category": List(Value("string")),
            "annotations": {
                "annotations": List({"area": Value("float32"), "bbox": FLOATS, "category_id": Value("int64")}),
                "image_id": Value("int64"),
            },
        },
        lambda o: {
            "height": o.size[1],
            "width": o.size[0],
            "bbox": o.xywh(),
            "label": o.labels,
            "category": names_of(o),
            "annotations": {
                "annotations": [
                    {"area": a, "bbox": b, "category_id": n}
                    for a, b, n in zip(o.areas(), o.xywh(), o.labels, strict=True)
                ],
                "image_id": 0,
            },
        },
    ),
    "normalised centres": lambda: dataset_of(
        objects(None, Value("string")), lambda o: {"objects": {"bbox": o.centres(), "category": names_of(o)}}
    ),
    "misspelt names": lambda: dataset_of(
        {"objects": {"area": FLOATS, "bbox": List(FLOATS), "catagories": List(Value("string"))}},
        lambda o: {"objects": {"area": o.areas(), "bbox": o.xywh(), "catagories": names_of(o)}},
    ),
    "sides under names": lambda: dataset_of(
        {
            "faces": List(
                {
                    "bbox": {name: Value("float32") for name in ("xmin", "ymin", "xmax", "ymax")},
                    "class": Value("string"),
                }
            )
        },
        lambda o: {
            "faces": [
                {"bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), b, strict=True)), "class": n}
                for b, n in zip(o.boxes, names_of(o), strict=True)
            ]
        },
    ),
    "JSON in a string": lambda: dataset_of(
        {"bboxes": Value("string"), "labels": List(Value("string"))},
        lambda o: {"bboxes": json.dumps(o.xywh()), "labels": names_of(o)},
    ),
}


def masked(more, row):
    """Boxes and classes with masks beside."""
    return dataset_of(
        {"objects": {"bbox": List(FLOATS), "category": List(Classes(names=list(NAMES)))} | more},
        lambda o: {"objects": {"bbox": o.xywh(), "category": o.labels} | row(o)},
    )


def text(rle):
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def runs(rle):
    """Uncompressed run lengths of a mask."""
    flat = np.concatenate([[0], coco.decode(rle).ravel("F"), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": rle["size"], "counts": np.diff(np.concatenate([[0], ends])).tolist()}


def drawing(one, kind):
    """Hexagons in a picture: panoptic ids, class and object, or numbers from 1."""
    h, w = one.size[1], one.size[0]
    made = np.zeros((h, w) if kind == "index" else (h, w, 3), dtype=np.uint8)
    for number, (label, rle) in enumerate(zip(one.labels, one.rles(), strict=True), 1):
        inside = coco.decode(rle) > 0
        made[inside] = number if kind == "index" else (label + 1, number, 0) if kind == "classes" else (number, 1, 2)
    return {"bytes": png(Image.fromarray(made)), "path": None}


def visible(one):
    """Classes of the hexagons that are not wholly covered by later ones."""
    seen = np.unique(np.array(Image.open(io.BytesIO(drawing(one, "index")["bytes"]))))
    return [n for n in range(len(one.labels)) if n + 1 in seen]


RLES = {"size": INTS, "counts": Value("string")}
MASKED = {
    "polygons": lambda: masked(
        {"segmentation": List(List(FLOATS))}, lambda o: {"segmentation": [[p] for p in o.polygons]}
    ),
    "compressed run lengths": lambda: masked(
        {"masks": List(RLES)}, lambda o: {"masks": [text(rle) for rle in o.rles()]}
    ),
    "run lengths": lambda: masked(
        {"segmentation": List({"size": INTS, "counts": INTS})}, lambda o: {"segmentation": [runs(r) for r in o.rles()]}
    ),
    "run lengths at the top": lambda: dataset_of(
        {
            "bboxes": List(FLOATS),
            "categories": List(Value("string")),
            "inst.rles": {"size": List(INTS), "counts": List(Value("string"))},
        },
        lambda o: {
            "bboxes": o.xywh(),
            "categories": names_of(o),
            "inst.rles": {
                "size": [rle["size"] for rle in o.rles()],
                "counts": [rle["counts"].decode() for rle in o.rles()],
            },
        },
    ),
    "bitmaps": lambda: dataset_of(
        {"boxes": List(FLOATS), "labels": List(Value("string")), "masks": List(ImageFeature())},
        lambda o: {
            "boxes": o.boxes,
            "labels": names_of(o),
            "masks": [{"bytes": png(Image.fromarray(255 * coco.decode(rle))), "path": None} for rle in o.rles()],
        },
    ),
    "bitmaps without boxes": lambda: dataset_of(
        {"labels": List(Value("string")), "masks": List(ImageFeature())},
        lambda o: {
            "labels": names_of(o),
            "masks": [{"bytes": png(Image.fromarray(255 * coco.decode(rle))), "path": None} for rle in o.rles()],
        },
    ),
}


# --- folders ---------------------------------------------------------------------------------------------------------


def save(one, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    one.image.save(path)


def coco_json(of_split, first=1, masks=False):
    """COCO's JSON; ids of categories have holes."""
    images, annotations = [], []
    for number, one in enumerate(of_split):
        images.append({"id": number, "file_name": f"{one.name}.png", "width": one.size[0], "height": one.size[1]})
        for box, area, label, polygon in zip(one.xywh(), one.areas(), one.labels, one.polygons, strict=True):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": 3 * label + first,
                    "bbox": box,
                    "area": area,
                }
                | {"iscrowd": 0, "segmentation": [polygon] if masks else []}
            )
    categories = [{"id": 3 * n + first, "name": name, "supercategory": "animals"} for n, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root, masks=False):
    for split, year in (("train", "train2017"), ("validation", "val2017"), ("test", "test2017")):
        for one in ALL[split]:
            save(one, root / year / f"{one.name}.png")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{year}.json").write_text(json.dumps(coco_json(ALL[split], masks=masks)))


def write_roboflow(root):
    for split, folder in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for one in ALL[split]:
            save(one, root / folder / f"{one.name}.png")
        held = coco_json(ALL[split])
        held["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        (root / folder / "_annotations.coco.json").write_text(json.dumps(held))


def write_yolo(root, segments=False, by_kind=False):
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        for one in ALL[split]:
            images, labels = (
                (("images", folder), ("labels", folder)) if by_kind else ((folder, "images"), (folder, "labels"))
            )
            save(one, root.joinpath(*images, f"{one.name}.png"))
            if not one.labels:
                continue  # YOLO writes no file for an image without objects
            path = root.joinpath(*labels, f"{one.name}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            w, h = one.size
            lines = [
                [label, *(np.array(polygon).reshape(-1, 2) / (w, h)).ravel()] if segments else [label, *box]
                for label, box, polygon in zip(one.labels, one.centres(), one.polygons, strict=True)
            ]
            path.write_text("".join(" ".join(f"{x:.8g}" for x in line) + "\n" for line in lines))
    (root / "data.yaml").write_text(
        yaml.safe_dump({"train": "../train/images", "val": "../val/images", "nc": 3, "names": list(NAMES)})
    )


def voc_xml(one):
    objects = "".join(
        f"<object><name>{NAMES[label]}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for label, (a, b, c, d) in zip(one.labels, one.boxes, strict=True)
    )
    size = f"<size><width>{one.size[0]}</width><height>{one.size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{one.name}.png</filename>{size}{objects}</annotation>"


def write_voc(root):
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        for one in ALL[split]:
            save(one, root / "JPEGImages" / f"{one.name}.png")
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{one.name}.xml").write_text(voc_xml(one))
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{one.name}\n" for one in ALL[split]))


def write_metadata(root):
    for split in ALL:
        lines = []
        for one in ALL[split]:
            save(one, root / split / f"{one.name}.png")
            held = {"bbox": one.xywh(), "categories": names_of(one), "area": one.areas(), "id": one.labels}
            lines.append(json.dumps({"file_name": f"{one.name}.png", "objects": held}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines))


def write_csv_of_json(root):
    for split in ALL:
        with io.StringIO(newline="") as buffer:
            table = csv.writer(buffer)
            table.writerow(["file_name", "objects"])
            for one in ALL[split]:
                save(one, root / split / f"{one.name}.png")
                table.writerow([f"{one.name}.png", json.dumps({"bbox": one.boxes, "categories": names_of(one)})])
            (root / split / "metadata.csv").write_text(buffer.getvalue())


def write_corners(root):
    for split, folder in (("train", "train"), ("validation", "valid"), ("test", "test")):
        with io.StringIO(newline="") as buffer:
            table = csv.writer(buffer)
            table.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
            for one in ALL[split]:
                save(one, root / folder / f"{one.name}.png")
                rows = zip(names_of(one), one.boxes, strict=True)
                empty = [[f"{one.name}.png", *one.size, "", "", "", "", ""]]
                table.writerows([[f"{one.name}.png", *one.size, name, *box] for name, box in rows] or empty)
            (root / folder / "_annotations.csv").write_text(buffer.getvalue())


FOLDERS = {
    "COCO JSON": write_coco,
    "COCO JSON by Roboflow": write_roboflow,
    "YOLO": write_yolo,
    "YOLO, images and labels apart": lambda root: write_yolo(root, by_kind=True),
    "Pascal VOC": write_voc,
    "metadata.jsonl": write_metadata,
    "metadata.csv with JSON": write_csv_of_json,
    "a table of corners": write_corners,
}
MASKED_FOLDERS = {
    "COCO JSON": lambda root: write_coco(root, masks=True),
    "YOLO": lambda root: write_yolo(root, segments=True),
}


# --- what is read ----------------------------------------------------------------------------------------------------


class Reads:
    """A task for `prepare`, of which the reading is all that there is."""

    def __init__(self, task=schema.DETECTION, **flags):
        self.task, self.flags = task, flags

    def recognise(self, features, image_column=None, target_column=None):
        return schema.infer(self.task, features, image_column, target_column).flagged(self.flags)


def prepared(source, task=schema.DETECTION, box_format=None, **options):
    return dataset.prepare(source, Reads(task, box_format=box_format), **options)


CONFIG = {
    "input_size": (3, 64, 64),
    "interpolation": "bilinear",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "crop_pct": 1.0,
}


def targets(data, role):
    """Of each image of a role: boxes, names of classes, masks, from what the loader would give."""
    from finetune.tasks.detection.loading.datamodule import stored

    made, part = inputs(data.schema, CONFIG), data.splits.parts[role]
    table = data.encoded(role).with_format("arrow")
    found = []
    for row in part.rows.tolist():
        held = table[[row]].to_pylist()[0]
        image = stored(held[data.schema.image_column])
        _, target = made.evaluation(image, {name: held.get(name) for name in made.columns})
        names = [data.schema.classes[label] for label in target["labels"].tolist()]
        found.append((target["boxes"].numpy(), names, target.get("rles", [])))
    return found
