"""What a dataset says in other words is read, or refused with the remedy: formats, paths, base64, odd names."""

import base64
import io
import logging
import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from finetune import console
from finetune.data import places, source
from finetune.data.folder import tree
from finetune.errors import DatasetError, SchemaError, SplitError
from tests.finetune.classes import prepare


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch, caplog):
    """A cache of our own, and the log where `caplog` sees it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")


def png(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def memory(count=12, **more):
    columns = {"image": [{"bytes": png(n), "path": None} for n in range(count)], "label": [n % 2 for n in range(count)]}
    features = Features(image=ImageFeature(), label=ClassLabel(names=["ant", "bee"]))
    rows = Dataset.from_dict(columns, features=features)
    for name, values in more.items():
        rows = rows.add_column(name, values)
    return rows


def pictures(folder, names=("ant", "bee"), count=6):
    for kind, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            (folder / name / f"{n}.png").write_bytes(png(10 * kind + n))
    return folder


def written(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


FORMATS = {
    "torch": lambda rows: rows.with_format("torch"),
    "numpy": lambda rows: rows.with_format("numpy"),
    "arrow": lambda rows: rows.with_format("arrow"),
    "pandas": lambda rows: rows.with_format("pandas"),
    "columns": lambda rows: rows.with_format("torch", columns=["label"]),
    "transform": lambda rows: rows.with_transform(
        lambda batch: {"pixel_values": batch["image"], "labels": batch["label"]}
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_taken_off(name, caplog):
    ready = prepare(FORMATS[name](memory()))
    assert ready.schema.classes == ("ant", "bee")
    assert sum(ready.splits.counts().values()) == 12
    assert any("is taken off" in message for message in caplog.messages)


def test_a_dataset_without_a_format_stays_the_same_object():
    rows = memory()
    assert source.load(rows).splits["train"] is rows
    both = DatasetDict(train=rows, val=memory(4))
    assert source.load(both).splits is both


@pytest.mark.parametrize("feature", [Value("string"), ClassLabel(names=["train", "dev"])], ids=["string", "class"])
def test_a_column_of_splits_makes_them(feature, caplog):
    rows = memory(split=["train", "train", "dev"] * 4)
    opened = source.load(rows.cast_column("split", feature) if isinstance(feature, ClassLabel) else rows)
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 8, "validation": 4}
    assert "split" not in opened.splits["train"].column_names
    assert "splits: as column 'split' says (8 train, 4 validation)" in caplog.messages


def test_a_column_called_split_with_other_values_is_none():
    opened = source.load(memory(split=["banana", "cream", "train"] * 4))
    assert list(opened.splits) == ["train"]
    assert prepare(opened).schema.classes == ("ant", "bee")


def test_splits_that_are_there_already_win_over_a_column():
    whole = memory(split=["train", "test"] * 6)
    assert list(source.load(DatasetDict(train=whole, test=whole)).splits) == ["train", "test"]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_base64_is_decoded(tmp_path, head):
    text = [head + base64.b64encode(png(n)).decode() for n in range(12)]
    path = written(tmp_path / "a.parquet", image=text, label=["ant", "bee"] * 6)
    ready = prepare(str(path))
    assert sum(ready.splits.counts().values()) == 12
    row = int(ready.splits.parts["train"].rows[0])
    assert ready.encoded("train")[row]["image"]["bytes"] == png(row)


def test_text_that_is_neither_a_path_nor_an_image_is_not_printed(tmp_path, caplog):
    path = written(tmp_path / "a.parquet", image=["x" * 5000] * 12, label=["ant", "bee"] * 6)
    with pytest.raises(DatasetError, match=r"5000 characters of text, and no path: ") as error:
        prepare(str(path), image_column="image")
    assert max(map(len, [str(error.value), *caplog.messages])) < 400


@pytest.mark.parametrize("length", [None, 784])
def test_flat_pixels_are_refused_with_the_way_to_reshape_them(length):
    kind = datasets.List(Value("uint8"), length=length or -1)
    rows = Dataset.from_dict(
        {"image": [[0] * 784] * 4, "label": [0, 1] * 2}, features=Features(image=kind, label=Value("int64"))
    )
    with pytest.raises(SchemaError, match=r"column 'image' holds flat lists.* of uint8; .*np.reshape"):
        prepare(rows, image_column="image")


@pytest.mark.parametrize("form", ["file", "folder", "csv", "windows"])
def test_relative_paths_start_from_the_file(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    root = pictures(tmp_path / "data")
    names = [f"{kind}/{n}.png" for n in range(6) for kind in ("ant", "bee")]
    if form == "windows":
        names = [name.replace("/", "\\") for name in names]
    rows = {"image_path": names, "breed": ["x", "y"] * 6}
    path = root / "all.csv"
    if form == "csv":
        path.write_text("image_path,breed\n" + "\n".join(map(",".join, zip(*rows.values(), strict=True))))
    else:
        path = written(root / "all.parquet", **rows)
    ready = prepare(str(root if form == "folder" else path), target_column="breed")
    assert ready.schema.classes == ("x", "y")
    assert sum(ready.splits.counts().values()) == 12
    assert ready.undecodable == {}


def test_a_table_by_its_path_is_the_one_that_counts(tmp_path, caplog):
    root = pictures(tmp_path / "data", ["all"], 12)
    for name, classes in (("a.csv", "xy"), ("b.csv", "pq")):
        lines = [f"{n}.png,{classes[n % 2]}" for n in range(12)]
        (root / name).write_text("\n".join(["id,label", *lines]))
    assert prepare(str(root / "b.csv")).schema.classes == ("p", "q")
    assert any(message.startswith("not read: 1 .csv files") for message in caplog.messages)


def test_names_of_any_bytes_are_read_and_shown(tmp_path, caplog):
    root = pictures(tmp_path / "data")
    os.rename(os.fsencode(root / "bee"), os.fsencode(root) + b"/caf\xe9")
    (root / "ant" / os.fsdecode(b"caf\xe9.png")).write_bytes(png(99))
    ready = prepare(str(root))
    assert ready.schema.classes == ("ant", "caf\\xe9")
    assert sum(ready.splits.counts().values()) == 13
    assert ready.undecodable == {}
    for message in caplog.messages:
        message.encode()
    assert ready.fingerprint("train")


def test_a_folder_with_a_name_of_any_bytes_is_read(tmp_path):
    root = pictures(tmp_path / "data")
    os.rename(root, os.fsencode(tmp_path) + b"/caf\xe9")
    assert prepare(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).schema.classes == ("ant", "bee")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root, real = pictures(tmp_path / "data"), os.scandir

    def refused(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(tree.os, "scandir", refused)  # the tests may run as root, who may read everything
    with pytest.raises(DatasetError, match=r"cannot read folder .*/data/bee: permission denied. .*chmod u\+rx"):
        source.load(str(root))


@pytest.mark.parametrize(("asked", "found"), [("val", "validation"), ("valid", "validation"), ("dev", "validation")])
def test_a_split_goes_by_each_of_its_names(tmp_path, asked, found):
    for split in ("train", "val", "test"):
        pictures(tmp_path / "data" / split)
    ready = prepare(str(tmp_path / "data"), val_split=asked)
    assert ready.splits.parts["validation"].source == found
    with pytest.raises(SplitError, match="--val-split: no labelled split 'other'"):
        prepare(str(tmp_path / "data"), val_split="other")


def test_the_sample_is_not_a_folder_of_its_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "digits")
    assert places.find("digits").path is None
    assert "not the folder of that name here: write ./digits for that" in caplog.text
    assert places.find("./digits").path == (tmp_path / "digits").resolve()


def test_what_a_terminal_cannot_show_is_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    handlers = logging.getLogger("finetune").handlers[:]
    try:
        console.set_up(stream)
        console.log.error("classes: %s", "\N{CJK UNIFIED IDEOGRAPH-732B}\udce9")
    finally:
        logging.getLogger("finetune").handlers[:] = handlers
    stream.flush()
    assert stream.buffer.getvalue() == b"classes: \\u732b\\udce9\n"
