"""Real datasets in every layout: the same splits, the same targets, the same numbers."""

import csv
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets, load_dataset

from finetune.data import dataset
from finetune.tasks import registry

MULTI = "multi-label-classification"


@pytest.fixture(scope="module")
def cells(shared_data):
    """bccd's images, and the classes of the boxes of each; all in one split, so that two have to be carved."""
    held = load_dataset(str(shared_data / "bccd"))
    rows = concatenate_datasets([held[name] for name in held])
    names = rows.features["objects"]["category"].feature.names
    return rows, names, [sorted(set(of["category"])) for of in rows["objects"]]


def columns(cells, layout):
    rows, names, sets = cells
    hot = [[int(k in of) for k in range(3)] for of in sets]
    return {
        "boxes": ({"objects": rows.features["objects"]}, {"objects": rows["objects"][:]}),
        "ClassLabels": ({"label": List(ClassLabel(names=names))}, {"label": sets}),
        "names": ({"label": List(Value("string"))}, {"label": [[names[k] for k in of] for of in sets]}),
        "text": ({"label": Value("string")}, {"label": ["|".join(names[k] for k in of) for of in sets]}),
        "multi-hot": ({"label": List(Value("int64"))}, {"label": hot}),
        "columns": (
            dict.fromkeys(names, Value("bool")),
            {name: [bool(row[k]) for row in hot] for k, name in enumerate(names)},
        ),
        "struct": (
            {"shown": dict.fromkeys(names, Value("bool"))},
            {"shown": [dict(zip(names, map(bool, row), strict=True)) for row in hot]},
        ),
    }[layout]


LAYOUTS = ("boxes", "ClassLabels", "names", "text", "multi-hot", "columns", "struct")


@pytest.fixture(scope="module")
def small(cells):
    """The images at 48 pixels, encoded once."""
    features = Features({"image": Image()})
    images = [image.convert("RGB").resize((64, 48)) for image in cells[0]["image"]]
    return Dataset.from_dict({"image": images}, features=features)


def made(cells, small, layout):
    features, values = columns(cells, layout)
    more = Dataset.from_dict(values, features=Features(features))
    return concatenate_datasets([small, more], axis=1)


@pytest.mark.slow(seconds=20)
def test_every_layout_of_cells_has_the_same_splits(cells, small, tmp_path):
    found = {}
    for layout in LAYOUTS:
        task = registry.reader(MULTI if layout == "boxes" else None)
        data = dataset.prepare(made(cells, small, layout), task)
        assert data.schema.task == MULTI, layout
        found[layout] = {role: (part.rows.tolist(), part.targets.tolist()) for role, part in data.splits.parts.items()}
    tables(cells, small, tmp_path)
    for layout in ("rows", "ones", "field"):
        data = dataset.prepare(str(tmp_path / layout), registry.READING)
        assert data.schema.task == MULTI, layout
        found[layout] = {role: (part.rows.tolist(), part.targets.tolist()) for role, part in data.splits.parts.items()}
    for layout, splits in found.items():
        assert splits == found["ClassLabels"], layout
    for role, (_, targets) in found["boxes"].items():
        assert (np.array(targets) > 0).any(axis=0).all(), role


def tables(cells, small, folder):
    """Folders of pictures with a table: a row a class, a column a class, several names in a field."""
    _, names, sets = cells
    files = [f"{n:04}.png" for n in range(len(sets))]
    contents = {
        "rows": [("file_name", "label"), *((f, names[k]) for f, of in zip(files, sets, strict=True) for k in of)],
        "ones": [
            ("file_name", *names),
            *((f, *(int(k in of) for k in range(3))) for f, of in zip(files, sets, strict=True)),
        ],
        "field": [
            ("file_name", "label"),
            *((f, ";".join(names[k] for k in of)) for f, of in zip(files, sets, strict=True)),
        ],
    }
    for layout, lines in contents.items():
        (folder / layout).mkdir()
        for name, image in zip(files, small["image"], strict=True):
            image.save(folder / layout / name)
        with (folder / layout / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)


SETTINGS = (
    "--model test_efficientnet --no-pretrained --image-size 32 --epochs 1 --batch-size 32 --lr 3e-3 --max-samples 60 "
    "--accelerator cpu --workers 0"
)


@pytest.mark.slow(seconds=40)
def test_clothing_as_one_hot_and_as_text_is_clothing_as_classes(cli, shared_data, tmp_path):
    held = load_dataset(str(shared_data / "clothing"))
    names = held["train"].features["label"].names
    image = {"image": held["train"].features["image"]}
    some = {name: rows.shuffle(seed=0).select(range(150)) for name, rows in held.items()}
    forms = {
        "classes": (held["train"].features["label"], lambda k: k),
        "text": (Value("string"), lambda k: names[k]),
        "one-hot": (List(Value("int8")), lambda k: [int(k == other) for other in range(len(names))]),
    }
    results = {}
    for form, (feature, of) in forms.items():
        parts = {}
        for name, rows in some.items():
            labels = Dataset.from_dict({"label": [of(k) for k in rows["label"]]}, features=Features({"label": feature}))
            parts[name] = concatenate_datasets([rows.remove_columns("label").cast(Features(image)), labels], axis=1)
        DatasetDict(parts).save_to_disk(tmp_path / form)
        out = tmp_path / f"run-{form}"
        done = cli("finetune", "--dataset", tmp_path / form, "--output", out, *SETTINGS.split())
        assert done.returncode == 0, done.stderr
        results[form] = json.loads((out / "result.json").read_text())
    assert {result["task"] for result in results.values()} == {"image-classification"}
    for result in results.values():
        assert result["metrics"] == results["classes"]["metrics"]
