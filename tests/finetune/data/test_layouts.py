"""Folders are read as a person would read them, or refused with the readings and the flag that chooses: one table."""

import csv
import io
import json
import logging
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune.data import source
from finetune.data.dataset import inspect
from finetune.errors import FinetuneError
from finetune.tasks import registry
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


def names(pattern, count=6, first=0):
    """`a/*.png` -> a/000.png, a/001.png, ..."""
    return [pattern.replace("*", f"{n:03}") for n in range(first, first + count)] if "*" in pattern else [pattern]


def table(rows, head, delimiter=","):
    """The text of a csv table."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([head, *rows] if head else rows)
    return text.getvalue().encode()


def two(patterns, head=("file_name", "label"), values=("ant", "bee"), delimiter=",", count=6, name=lambda file: file):
    """A table that names all files of the patterns, one class after the other."""
    files = [file for pattern in patterns for file in names(pattern, count)]
    return table([(name(file), values[n % len(values)]) for n, file in enumerate(files)], head, delimiter)


def held(count, first=0, label=("ant", "bee"), **more):
    """A parquet file of images."""
    images = [{"bytes": png(first + n), "path": None} for n in range(count)]
    columns = {"image": images, "label": [label[n % len(label)] for n in range(count)]} | more
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def parquet(**columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def zipped(*patterns, **files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(name for pattern in patterns for name in names(pattern)):
            archive.writestr(name, png(number))
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*patterns, mode="w", beside=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for number, name in enumerate(name for pattern in patterns for name in names(pattern)):
            for suffix, content in ((Path(name).suffix, png(number)), *((s, make(number)) for s, make in beside)):
                info = tarfile.TarInfo(str(Path(name).with_suffix(suffix)))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


AB = ["ant/*.png", "bee/*.png"]
SOME = [f"{n:03}.png" for n in range(12)]
JSON = ((".json", lambda n: json.dumps({"label": "ant bee".split()[n % 2]}).encode()),)

# name: (files, what is read: classes and images by split, or an error; what is said)
LAYOUTS = {
    # folders
    "class folders": (AB, "ant bee", {"train": 12}, ["read: 12 images (12 as train)"]),
    "split folders of class folders": (
        [f"{s}/{p}" for s in ("train", "val", "test1") for p in AB],
        "ant bee",
        {"train": 12, "validation": 12, "test": 12},
        [],
    ),
    "folders above": ([f"data/pets/{p}" for p in AB], "ant bee", {"train": 12}, []),
    "a folder between split and classes": (
        [f"{s}/images/{p}" for s in ("train", "test") for p in AB],
        "ant bee",
        {"train": 12, "test": 12},
        [],
    ),
    "split folders without classes": (
        ["train/*.png", "test/*.png"],
        r"images \(6 as train, 6 as test\) without class folders and without a table .* no column holds classes",
        None,
        [],
    ),
    "the class in file names": (
        ["train/cat.*.png", "train/dog.*.png", "test1/*.png"],
        r"12 as train, 6 as test\) without class folders and .* a table",
        None,
        [],
    ),
    "folders of pictures alone with other names": (["train/*.png", "bus/*.png"], "bus train", {"train": 12}, []),
    "split folders and one that is none": (
        [*(f"{s}/{p}" for s in ("train", "test") for p in AB), "extra/*.png"],
        "ant bee",
        {"train": 12, "test": 12},
        ["warning: left out: 6 images outside of the split folders (6 in extra)"],
    ),
    "split folders that share a word": (
        [f"pets_{s}/{p}" for s in ("train", "test") for p in AB],
        "ant bee",
        {"train": 12, "test": 12},
        [],
    ),
    "two folders of one split": (
        [f"{s}/{p}" for s in ("train", "test", "test2") for p in AB],
        "ant bee",
        {"train": 12, "test": 24},
        ["folders of one split, test: test, test2"],
    ),
    "split below the class": (
        [f"{c}/{s}/*.png" for c in ("ant", "bee") for s in ("train", "test")],
        "ant bee",
        {"train": 12, "test": 12},
        ["the folders below each class are splits (test, train)"],
    ),
    "split joined to the class": (
        [f"{s}_{c}/*.png" for c in ("ant", "bee") for s in ("train", "test")],
        "ant bee",
        {"train": 12, "test": 12},
        ["the names of folders join split and class (test_ant, test_bee, train_ant, train_bee)"],
    ),
    "split words in names of classes": (
        ["train_station/*.png", "test_tube/*.png"],
        "test_tube train_station",
        {"train": 12},
        ["warning: class names with the word of a split (test_tube, train_station): they stay classes"],
    ),
    "one name under several folders": (
        ["apple/healthy/*.png", "apple/rust/*.png", "grape/healthy/*.png", "grape/rot/*.png"],
        r"3 columns .*--target-column: folder_1 \(apple, grape\), folder_2 \(healthy, rot, rust\), folders \(apple",
        None,
        [],
    ),
    "classes of classes": (
        ["mammal/cat/*.png", "mammal/dog/*.png", "bird/owl/*.png", "bird/jay/*.png"],
        r"--target-column: folder_1 \(bird, mammal\), folder_2 \(cat, dog, jay, owl\)",
        None,
        [],
    ),
    "deeper folders of a class": (
        [*AB, "bee/more/*.png"],
        "ant bee",
        {"train": 18},
        ["the class is the first folder: deeper ones belong to it (bee/more)"],
    ),
    "one folder more below each class": ([f"{c}/images/*.png" for c in ("ant", "bee")], "ant bee", {"train": 12}, []),
    "parts below a class": (
        ["ant/batch1/*.png", "ant/batch2/*.png", "bee/batch1/*.png"],
        "ant bee",
        {"train": 18},
        ["the class is the first folder: deeper ones belong to it (ant/batch1, ant/batch2, bee/batch1)"],
    ),
    "parts above the classes": (
        [f"part_{n}/{p}" for n in (1, 2) for p in AB],
        "ant bee",
        {"train": 24},
        ["folders of parts, not classes: part_1, part_2"],
    ),
    "pictures of the README": (
        [*(f"{s}/{p}" for s in ("train", "test") for p in AB), "assets/*.png"],
        "ant bee",
        {"train": 12, "test": 12},
        ["not read: 6 pictures of the README in assets"],
    ),
    "pictures that the README shows": (
        [*AB, "figures/*.png", ("README.md", b"![](figures/000.png)")],
        "ant bee",
        {"train": 12},
        ["not read: 6 pictures of the README in figures"],
    ),
    "a split word in an image's name": ([*AB, "ant/my test photo.png"], "ant bee", {"train": 13}, []),
    "classes called valid and invalid": (["valid/a/*.png", "invalid/a/*.png"], "invalid valid", {"train": 12}, []),
    "images without labels beside the splits": (
        [*(f"train/{p}" for p in AB), "unlabeled/*.png"],
        "ant bee",
        {"train": 12},
        ["warning: left out: 6 images outside of the split folders (6 in unlabeled)"],
    ),
    "a class called mask": (["images/mask/*.png", "images/no_mask/*.png"], "mask no_mask", {"train": 12}, []),
    # tables
    "a table beside the images": (["*.png", ("metadata.csv", two(["*.png"]))], "ant bee", {"train": 6}, []),
    "a table above a folder of images": (
        ["images/*.png", ("labels.csv", two(["*.png"], ("image", "label")))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "a table in a folder of its own": (
        ["images/*.png", ("labels/all.csv", two(["../images/*.png"], ("path", "class")))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "a table above split folders": (
        ["train/*.png", "test/*.png", ("metadata.csv", two(["train/*.png", "test/*.png"]))],
        "ant bee",
        {"train": 6, "test": 6},
        [],
    ),
    "a table above train alone": (
        ["train/*.png", ("metadata.csv", two(["train/*.png"]))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "a table of one split": (
        ["train/*.png", "test/*.png", ("train.csv", two(["*.png"], ("image", "label")))],
        "ant bee",
        {"train": 6, "test": 6},
        ["not read: 6 images without a row in train.csv (test/000.png, test/001.png, test/002.png, ... (6 in all))"],
    ),
    "a table of each split over one folder": (
        [
            "images/a*.png",
            "images/b*.png",
            ("train.csv", two(["a*.png"])),
            ("test.csv", two(["b*.png"])),
        ],
        "ant bee",
        {"train": 6, "test": 6},
        ["splits: by the names of the tables, test.csv, train.csv"],
    ),
    "a table in each split": (
        [x for s in ("train", "valid") for x in (f"{s}/*.png", (f"{s}/labels.csv", two(["*.png"])))],
        "ant bee",
        {"train": 6, "validation": 6},
        [],
    ),
    "a column of 0 and 1 for each class": (
        [
            x
            for s in ("train", "test")
            for x in (
                f"{s}/*.png",
                (
                    f"{s}/_classes.csv",
                    table([(f"{n:03}.png", 1 - n % 2, n % 2) for n in range(6)], ["filename", " bee", " ant"]),
                ),
            )
        ],
        "bee ant",
        {"train": 6, "test": 6},
        ["classes: the 2 columns of 0 and 1 (bee, ant)"],
    ),
    "one column for each class, in fractions": (
        [
            "in/*.png",
            (
                "truth.csv",
                table([(f"{n:03}", f"{1 - n % 2}.0", f"{n % 2}.0") for n in range(6)], ["image", "MEL", "NV"]),
            ),
        ],
        "MEL NV",
        {"train": 6},
        [],
    ),
    "several ones in a row": (
        ["*.png", ("t.csv", table([(f"{n:03}.png", 1, n % 2, 0) for n in range(6)], ["image", "a", "b", "c"]))],
        "a b c",
        {"train": 6},
        [],
    ),
    "names as written": (
        ["*.png", ("t.csv", two(["*.png"], values=("001", "010", "NA")))],
        "001 010 NA",
        {"train": 6},
        [],
    ),
    "numbers as numbers": (
        [*SOME, ("t.csv", table([(f, n % 11) for n, f in enumerate(SOME)], ("file", "label")))],
        "0 1 2 3 4 5 6 7 8 9 10",
        {"train": 12},
        [],
    ),
    "an empty field is no label": (
        ["*.png", ("t.csv", two(["*.png"], values=("null", "None", "")))],
        "None null",
        {"train": 6},
        [],
    ),
    "semicolons": (["*.png", ("t.csv", two(["*.png"], delimiter=";"))], "ant bee", {"train": 6}, []),
    "tabs": (["*.png", ("t.tsv", two(["*.png"], delimiter="\t"))], "ant bee", {"train": 6}, []),
    "bars, and a mark of the encoding": (
        ["*.png", ("t.csv", b"\xef\xbb\xbf" + two(["*.png"], delimiter="|"))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "no heading": (["*.png", ("t.csv", two(["*.png"], head=None))], "ant bee", {"train": 6}, []),
    "names without suffix": (
        ["*.png", ("t.csv", two(["*.png"], ("id", "breed"), name=lambda f: f[:-4]))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "paths of another machine": (
        [
            "train/*.png",
            "test/*.png",
            (
                "t.csv",
                two(
                    ["train/*.png", "test/*.png"],
                    ("filepath", "label"),
                    name=lambda f: f"C:\\data\\pets\\{f}".replace("/", "\\"),
                ),
            ),
        ],
        "ant bee",
        {"train": 6, "test": 6},
        [],
    ),
    "one name in two splits": (
        ["train/*.png", "test/*.png", ("labels.csv", two(["*.png"]))],
        r"labels.csv: 6 names in column 'file_name' are those of several images .*: write their paths",
        None,
        [],
    ),
    "a column of splits": (
        [
            *SOME,
            (
                "t.csv",
                table(
                    [(f, "ab"[n % 2], "train" if n < 8 else "test") for n, f in enumerate(SOME)],
                    ("file_name", "label", "split"),
                ),
            ),
        ],
        "a b",
        {"train": 8, "test": 4},
        ["splits: as column 'split' says"],
    ),
    "a column of yes and no for a split": (
        [*SOME, ("t.csv", table([(f, "ab"[n % 2], n >= 8) for n, f in enumerate(SOME)], ("id", "label", "is_valid")))],
        "a b",
        {"train": 8, "validation": 4},
        ["splits: as column 'is_valid' says"],
    ),
    "a table of test images without labels": (
        ["train/*.png", "test/*.png", ("train.csv", two(["*.png"])), ("sample_submission.csv", two(["*.png"]))],
        "ant bee",
        {"train": 6, "test": 6},
        ["not read: 1 .csv files, no images; 6 images without a row in train.csv"],
    ),
    "an empty table": ([*AB, ("t.csv", b"")], "ant bee", {"train": 12}, ["not read: 1 .csv files, no images"]),
    "a damaged table beside class folders": (
        [*AB, ("log.csv", b"a,b\n1\n2,3,4\n")],
        "ant bee",
        {"train": 12},
        ["warning: log.csv: row 3 has 3 fields", "not read: 1 .csv files, no images"],
    ),
    "a column of splits against the folders": (
        [
            "train/*.png",
            "test/*.png",
            (
                "t.csv",
                table(
                    [(f"{s}/{n:03}.png", "ab"[n % 2], "train") for s in ("train", "test") for n in range(6)],
                    ("file_name", "label", "split"),
                ),
            ),
        ],
        r"test/000.png lies in a folder of the test split, and column 'split' of t.csv says 'train'",
        None,
        [],
    ),
    "images without a row": (
        [*SOME, ("t.csv", two(["*.png"]))],
        "ant bee",
        {"train": 12},
        ["not read: 6 images without a row in t.csv (006.png, 007.png, 008.png, ... (6 in all))"],
    ),
    "rows without an image": (
        ["*.png", ("t.csv", two(["*.png"], count=8))],
        "ant bee",
        {"train": 6},
        ["not read: 2 rows of t.csv without an image (006.png, 007.png)"],
    ),
    "rows that differ": (
        ["*.png", ("t.csv", table([(f"{n % 6:03}.png", "ab"[n // 6]) for n in range(12)], ("image", "label")))],
        "a b",
        {"train": 6},
        ["classes: several rows an image, a class each, in column 'label'"],
    ),
    "rows of boxes": (
        [
            "*.png",
            (
                "t.csv",
                table([(f"{n % 6:03}.png", n, n, "a") for n in range(12)], ("image", "x_offset", "y_offset", "label")),
            ),
        ],
        r"t.csv has 2 rows of 000.png that differ in x_offset, y_offset: several boxes an image",
        None,
        [],
    ),
    "several names in a field": (
        [
            "*.png",
            (
                "t.csv",
                table([(f"{n:03}.png", ("ant", "bee", "ant|bee")[n % 3]) for n in range(6)], ("image", "tags")),
            ),
        ],
        "ant bee",
        {"train": 6},
        [],
    ),
    "ones, zeros and what is not known": (
        [
            "*.png",
            (
                "t.csv",
                table([(f"{n:03}.png", n % 2, -1, "") for n in range(5)] + [("005.png", 1, 1, 0)], "f a b c".split()),
            ),
        ],
        "a b c",
        {"train": 6},
        [],
    ),
    "two tables of one image": (
        ["*.png", ("a.csv", two(["*.png"])), ("b.csv", two(["*.png"]))],
        r"a.csv and b.csv both name 000.png: choose one of them by --dataset FOLDER/b.csv",
        None,
        [],
    ),
    "folders and another column": (
        [*AB, ("t.csv", two(AB, ("file_name", "author"), ("Ann", "Bob")))],
        "ant bee",
        {"train": 12},
        ["classes: the folders; to learn a column of the table name it by --target-column (author)"],
    ),
    "folders and the same in a column": (
        [*AB, ("t.csv", table([(f, f[:3]) for p in AB for f in names(p)], ("file_name", "label")))],
        "ant bee",
        {"train": 12},
        [],
    ),
    "folders against a column of labels": (
        [*AB, ("t.csv", two(AB, values=("x", "y")))],
        r"--target-column: folder \(ant, bee\), label \(x, y\)",
        None,
        [],
    ),
    "folders against columns of 0 and 1": (
        [
            *AB,
            ("t.csv", table([(f, n % 2, 1 - n % 2) for p in AB for n, f in enumerate(names(p))], ["id", "old", "new"])),
        ],
        "ant bee",
        {"train": 12},
        ["classes: the folders"],
    ),
    "folders of parts and a column": (
        ["part1/a*.png", "part2/b*.png", ("t.csv", two(["part1/a*.png", "part2/b*.png"]))],
        "ant bee",
        {"train": 12},
        ["folders of parts, not classes: part1, part2"],
    ),
    "a table of lines of JSON": (
        [
            "*.png",
            (
                "metadata.jsonl",
                "\n".join(json.dumps({"file_name": f, "legs": n % 2}) for n, f in enumerate(names("*.png"))).encode(),
            ),
        ],
        "0 1",
        {"train": 6},
        [],
    ),
    "a list of lines": (
        ["images/*.png", ("labels.txt", b"\n".join(f"{n:03}.png {n % 2}".encode() for n in range(6)))],
        "0 1",
        {"train": 6},
        [],
    ),
    "a JSON object of names and classes": (
        ["images/*.png", ("labels.json", json.dumps({f"{n:03}.png": "ab"[n % 2] for n in range(6)}).encode())],
        "a b",
        {"train": 6},
        [],
    ),
    "a table without its images": (
        [("t.csv", two(["*.png"]))],
        r"column 'file_name' of t.csv names images that are not there \(000.png, 001.png",
        None,
        [],
    ),
    "a table in parquet": (
        ["pics/*.png", ("all.parquet", parquet(image_path=names("pics/*.png"), label=["ant", "bee"] * 3))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "fields too many": (
        ["*.png", ("t.csv", b"file_name,label\n000.png,ant\n001.png,bee,cow\n")],
        r"t.csv: row 3 has 3 fields, the heading has 2 \(file_name, label\)",
        None,
        [],
    ),
    # containers
    "parquet files by split": (
        [("data/train-00000-of-00001.parquet", held(12)), ("data/test-00000-of-00001.parquet", held(6))],
        "ant bee",
        {"train": 12, "test": 6},
        [],
    ),
    "a split word in the name of one parquet file": (
        [("cats_train_v2.parquet", held(6)), ("more.parquet", held(6, 50))],
        "ant bee",
        {"train": 12},
        ["read: 2 .parquet files (2 as train)"],
    ),
    "a parquet file of no split": (
        [("train.parquet", held(6)), ("test.parquet", held(6, 20)), ("more.parquet", held(6, 50))],
        "ant bee",
        {"train": 6, "test": 6},
        ["warning: left out: 1 files that no split's name is on (more.parquet)"],
    ),
    "parquet files of the Hub with splits of their own": (
        [(f"data/{s}-00000-of-00001.parquet", held(6, 20 * k)) for k, s in enumerate(("train", "extra", "test"))],
        "ant bee",
        {"train": 6, "test": 6, "extra": 6},
        [],
    ),
    "a parquet file of the test beside others": (
        [("test.parquet", held(6)), ("birds.parquet", held(12, 20))],
        "ant bee",
        {"train": 12, "test": 6},
        [],
    ),
    "parquet files of other columns": (
        [("a.parquet", held(6)), ("b.parquet", held(6, hue=[1] * 6))],
        r"other columns: a.parquet has image, label, b.parquet has image, label, hue",
        None,
        [],
    ),
    "parquet files beside pictures": (
        [("data/train.parquet", held(12)), "assets/*.png", "cover.png"],
        "ant bee",
        {"train": 12},
        ["not read: 7 pictures beside them (in ., assets)"],
    ),
    "a column of splits in parquet": (
        [("all.parquet", held(12, split=["train", "train", "val"] * 4))],
        "ant bee",
        {"train": 8, "validation": 4},
        ["splits: as column 'split' says (8 train, 4 validation)"],
    ),
    "a zip of class folders": ([("data.zip", zipped(*AB))], "ant bee", {"train": 12}, []),
    "a zip of each split": (
        [("train.zip", zipped(*AB)), ("test.zip", zipped(*AB))],
        "ant bee",
        {"train": 12, "test": 12},
        [],
    ),
    "a zip of images beside a table": (
        [("images.zip", zipped("*.png")), ("labels.csv", two(["*.png"]))],
        "ant bee",
        {"train": 6},
        [],
    ),
    "a zip beside what it holds": (
        [*AB, ("data.zip", zipped(*AB))],
        "ant bee",
        {"train": 12},
        ["not read: 1 .zip files, no images"],
    ),
    "a tar of class folders": ([("data.tar", tarred(*AB))], "ant bee", {"train": 12}, []),
    "a compressed tar of class folders": ([("data.tar.gz", tarred(*AB, mode="w:gz"))], "ant bee", {"train": 12}, []),
    "a WebDataset with JSON": ([("data.tar", tarred("*.png", beside=JSON))], "ant bee", {"train": 6}, []),
    "a zip of something else": (
        [("data.zip", zipped(**{"notes.txt": b"words"}))],
        r"data.zip holds no images \(1 files\)",
        None,
        [],
    ),
    "a zip with a path out of it": (
        [("data.zip", zipped(*AB, **{"../evil.png": b"x"}))],
        r"data.zip holds a path that leads out of it \(../evil.png\)",
        None,
        [],
    ),
}


MASKS = {
    "masks beside images": (["images/*.png", "masks/*.png"], {"train": 6}, 6, []),
    "masks by split": (["images/train/*.png", "masks/train/*.png"], {"train": 6}, 6, []),
    "masks in each split": (
        ["train/images/*.png", "train/masks/*.png", "val/images/*.png", "val/masks/*.png"],
        {"train": 6, "validation": 6},
        12,
        [],
    ),
    "mmsegmentation's folders": (
        ["img_dir/train/*.png", "ann_dir/train/*.png", "img_dir/val/*.png", "ann_dir/val/*.png"],
        {"train": 6, "validation": 6},
        12,
        [],
    ),
    "a folder of masks for each split": (
        ["train/*.png", "train_labels/*_L.png", "test/*.png", "test_labels/*_L.png"],
        {"train": 6, "test": 6},
        12,
        [],
    ),
    "VOC's folders": (["VOC2012/JPEGImages/*.png", "VOC2012/SegmentationClass/*.png"], {"train": 6}, 6, []),
    "Cityscapes' folders": (
        ["leftImg8bit/train/ulm/*_leftImg8bit.png", "gtFine/train/ulm/*_gtFine_labelIds.png"],
        {"train": 6},
        6,
        [],
    ),
    "masks side by side": (["*.png", "*_mask.png"], {"train": 6}, 6, []),
    "masks side by side in each split": (
        ["train/*_sat.png", "train/*_mask.png", "test/*_sat.png", "test/*_mask.png"],
        {"train": 6, "test": 6},
        12,
        [],
    ),
    "an image without a mask": (["images/*.png", "images/more.jpg", "masks/*.png"], {"train": 7}, 6, []),
    "a mask without an image": (
        ["images/*.png", "masks/*.png", "masks/more.png", ("id2label.json", b'{"0": "a"}')],
        {"train": 6},
        6,
        ["not read: 1 .json files, no images; 1 masks without an image (masks/more.png)"],
    ),
    "two masks of one image": (
        ["images/*.png", "masks/*.png", "masks/000_mask.png"],
        r"2 masks could be that of images/000.png \(masks/000.png, masks/000_mask.png\): expected one",
        None,
        [],
    ),
}
"""Files, images of each split, how many of them have a mask, what is said."""


@pytest.mark.parametrize("name", MASKS)
def test_layouts_of_masks(name, tmp_path, caplog):
    files, counts, masked, said = MASKS[name]
    root = build(tmp_path / "pets", files)
    if masked is None:
        with pytest.raises(FinetuneError, match=counts):
            source.load(str(root))
        return
    opened = source.load(str(root))
    assert {split: len(rows) for split, rows in opened.splits.items()} == counts
    for line in said:
        assert any(message.startswith(line) for message in caplog.messages), caplog.messages
    stated = [
        (row["image"]["path"], row["mask"] and row["mask"]["path"])
        for rows in opened.splits.values()
        for row in rows.cast_column("image", STORED).cast_column("mask", STORED)
    ]
    pairs = [(image, mask) for image, mask in stated if mask is not None]
    assert len(pairs) == len(set(pairs)) == masked
    for image, mask in pairs:
        assert image != mask
        assert Path(image).name[:3] == Path(mask).name[:3]


STORED = datasets.Image(decode=False)


def build(root, files):
    """Make the files of a layout: patterns of images, and names with their content."""
    number = 0
    for entry in files:
        name, content = entry if isinstance(entry, tuple) else (entry, None)
        for each in names(name):
            number += 1
            (root / each).parent.mkdir(parents=True, exist_ok=True)
            (root / each).write_bytes(png(number) if content is None else content)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path, caplog):
    files, expected, counts, said = LAYOUTS[name]
    root = build(tmp_path / "pets", files)
    if counts is None:
        with pytest.raises(FinetuneError, match=expected):
            prepare(str(root))
        return
    opened = source.load(str(root))
    assert {split: len(rows) for split, rows in opened.splits.items()} == counts
    for line in said:
        assert any(message.startswith(line) for message in caplog.messages), caplog.messages
    found, _ = inspect(opened.splits, registry.READING)
    assert found.classes == tuple(expected.split())
    # Each image is there once, under its own class where a folder says it.
    images = [row for split in opened.splits.values() for row in split]
    assert len(images) == sum(counts.values())


def row(name):
    """How the page of the documentation begins the row of a layout."""
    files = " ".join(f"`{entry if isinstance(entry, str) else entry[0]}`" for entry in LAYOUTS[name][0])
    return f"| {name} | {files} | "


@pytest.mark.parametrize(
    ("name", "delimiter", "head"), [("t.csv", ",", ("file_name", "value")), ("t.tsv", "\t", ("image", "age"))]
)
def test_a_table_of_numbers(name, delimiter, head, tmp_path):
    build(tmp_path, ["*.png", (name, two(["*.png"], head, [n + 0.5 for n in range(6)], delimiter))])
    found, targets = inspect(source.load(str(tmp_path)).splits, registry.READING)
    assert (found.task, found.target_column) == ("image-regression", head[1])
    assert sorted(targets["train"]) == [n + 0.5 for n in range(6)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_page_of_the_documentation_has_every_layout(name):
    page = (Path(__file__).resolve().parents[3] / "docs/how-to/layouts.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(row(name))]
    assert len(rows) == 1
    _, classes, counts, _ = LAYOUTS[name]
    outcome = rows[0].removeprefix(row(name))
    assert outcome.startswith("refused: " if counts is None else "")
    for split, images in (counts or {}).items():
        assert f"{images} {split}" in outcome, outcome
    assert counts is None or f"`{'`, `'.join(classes.split())}`" in outcome


@pytest.mark.parametrize("name", MASKS)
def test_the_page_of_the_documentation_has_every_layout_of_masks(name):
    page = (Path(__file__).resolve().parents[3] / "docs/how-to/layouts.md").read_text(encoding="utf-8")
    files, counts, masked, _ = MASKS[name]
    start = f"| {name} | {' '.join(f'`{e if isinstance(e, str) else e[0]}`' for e in files)} | "
    (found,) = [line.removeprefix(start) for line in page.splitlines() if line.startswith(start)]
    assert found.startswith("refused: " if masked is None else f"{masked} masks; ")
    assert masked is None or all(f"{images} {split}" in found for split, images in counts.items())
