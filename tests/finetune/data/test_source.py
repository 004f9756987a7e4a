"""Datasets of every form are opened, and what can be used of them is found."""

import builtins
import io
import logging
import shutil
import tarfile

import datasets
import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from finetune.data import images, source
from finetune.data.checks import account
from finetune.data.checks.account import excluded
from finetune.data.sample import digits
from finetune.data.scan import Scan
from finetune.errors import DatasetError, SchemaError, SplitError
from tests.finetune.classes import prepare

NAMES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch, caplog):
    """A cache of our own, and the log where `caplog` sees it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")


def pixels(number):
    """6x5 pixels of noise that depend on `number`."""
    return np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def png(number):
    buffer = io.BytesIO()
    PILImage.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def table(count=30, classes=3, first=0):
    """A Dataset of `count` images; image `n` has class `n % classes`."""
    columns = {
        "image": [{"path": None, "bytes": png(first + n)} for n in range(count)],
        "label": [n % classes for n in range(count)],
    }
    return Dataset.from_dict(columns, features=Features(image=Image(), label=ClassLabel(names=NAMES[:classes])))


def image_folder(folder, count=30, splits=("",)):
    for split in splits:
        for number in range(count):
            path = folder / split / NAMES[number % 3] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
    return folder


def parquet_folder(folder, count=30):
    (folder / "data").mkdir(parents=True)
    for name, first, size in (("train", 0, count), ("validation", 100, 12), ("test", 200, 9)):
        table(size, first=first).to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def pandas_parquet(path, count=30):
    """As other libraries write it: a struct of bytes and path, and names for classes."""
    rows = {
        "image": [{"bytes": png(n), "path": None} for n in range(count)],
        "label": [NAMES[n % 3] for n in range(count)],
    }
    pandas.DataFrame(rows).to_parquet(path)
    return path


def tar_file(path, count=30):
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for suffix, content in (("png", png(number)), ("cls", str(number % 3).encode())):
                entry = tarfile.TarInfo(f"{number:03}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def saved(path, content):
    content.save_to_disk(path)
    return path


def arrow_file(folder):
    return next(saved(folder, table()).glob("*.arrow"))


FORMS = {
    "imagefolder": lambda path: image_folder(path / "pets"),
    "imagefolder with splits": lambda path: image_folder(path / "pets", splits=("train", "val", "test")),
    "parquet folder": lambda path: parquet_folder(path / "pets"),
    "parquet file": lambda path: path / "pets.parquet" if table().to_parquet(path / "pets.parquet") else None,
    "pandas' parquet file": lambda path: pandas_parquet(path / "pets.parquet"),
    "arrow file": lambda path: shutil.copy(arrow_file(path / "saved"), path / "pets.arrow"),
    "webdataset": lambda path: tar_file(path / "pets.tar"),
    "saved Dataset": lambda path: saved(path / "pets", table()),
    "saved DatasetDict": lambda path: saved(path / "pets", DatasetDict(train=table(), test=table(9, first=200))),
}
SPLITS = {
    "imagefolder with splits": {"train": 30, "validation": 30, "test": 30},
    "parquet folder": {"train": 30, "validation": 12, "test": 9},
    "saved DatasetDict": {"train": 30, "test": 9},
}
CLASSES = {"webdataset": ("0", "1", "2")}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_and_classes(form, tmp_path):
    path = FORMS[form](tmp_path)
    for name in (path, str(path)):
        opened = source.load(name)
        assert {split: len(rows) for split, rows in opened.splits.items()} == SPLITS.get(form, {"train": 30})
        facts = (opened.id, opened.hub, opened.config, opened.revision, opened.license)
        assert facts == ("pets", False, None, None, None)
    ready = prepare(opened)
    assert ready.schema.classes == CLASSES.get(form, tuple(NAMES))
    assert (ready.undecodable, ready.unlabelled) == ({}, {})
    counts = ready.splits.counts()
    assert sum(counts.values()) == sum(SPLITS.get(form, {"train": 30}).values())
    class_of = {pixels(n).tobytes(): n % 100 % 3 for n in [*range(30), *range(100, 112), *range(200, 209)]}
    for role, part in ready.splits.parts.items():
        rows = ready.encoded(role)
        for row, label in zip(part.rows, part.targets, strict=True):
            decoded = images.decode(rows[int(row)][ready.schema.image_column])
            assert class_of[np.asarray(decoded).tobytes()] == label


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image_folder(tmp_path / "pets")
    assert len(source.load("~/pets").splits["train"]) == 30


def test_a_dataset_in_memory_is_taken_as_it_is():
    alone, several = table(), DatasetDict(train=table(), val=table(6))
    assert source.load(alone).splits["train"] is alone
    assert source.load(several).splits is several
    assert source.load(alone).id == source.load(several).id == "memory"
    assert prepare(alone).splits.counts() == {"train": 24, "validation": 3, "test": 3}
    assert prepare(several).splits.counts() == {"train": 27, "validation": 3, "test": 6}


def test_digits_are_scikit_learns():
    opened = source.load("digits")
    assert (opened.id, opened.hub, opened.license) == ("digits", False, "cc-by-4.0")
    rows = opened.splits["train"]
    sample = load_digits()
    assert len(rows) == 1797
    assert rows.features["label"].names == [str(n) for n in range(10)]
    assert rows["label"][:] == sample.target.tolist()
    for row in (0, 1, 900, 1796):
        expected = np.floor(sample.images[row] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(np.asarray(rows[row]["image"]), expected)
    assert np.asarray(rows[0]["image"]).max() in (239, 255)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=r"comes with scikit-learn: pip install 'resnest-timm\[demo\]'"):
        digits()


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: cc-by-4.0\n---\n# Pets", "cc-by-4.0"),
        ("---\npretty_name: Pets\n---\n", None),
        ("# Pets, MIT", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("", None),
    ],
)
def test_the_license_is_what_the_folders_card_says(tmp_path, readme, expected):
    folder = saved(tmp_path / "saved", table(6))
    (folder / "README.md").write_text(readme)
    assert source.load(folder).license == expected


def test_the_license_of_an_image_folder_with_a_card(tmp_path):
    folder = image_folder(tmp_path / "pets", 6)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert source.load(folder).license == "mit"


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        (
            "---\nlicense: {\n---\n",
            r"cannot read .*pets: the head of its README.md is not YAML: while parsing a flow node",
        ),
        ("---\nconfigs: 3\n---\n", r"cannot read .*pets: Expected configs to be a list"),
    ],
)
def test_a_folder_whose_card_is_broken_is_refused(tmp_path, readme, message):
    (image_folder(tmp_path / "pets", 6) / "README.md").write_text(readme)
    with pytest.raises(DatasetError, match=message):
        source.load(tmp_path / "pets")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such file or folder: /.*/nowhere$"),
        ("/nowhere/at/all", "no such file or folder: /nowhere/at/all$"),
        ("~/nowhere", r"no such file or folder: /.*/nowhere$"),
        ("pets.parquet", "no such file or folder: /.*/pets.parquet$"),
        ("pets.tar", "no such file or folder: "),
        ("food10", r"unknown dataset 'food10'; did you mean food101\? Expected a Hub id \(OWNER/NAME\)"),
        ("digit", r"unknown dataset 'digit'; did you mean digits\?"),
        ("zzzzzz", r"unknown dataset 'zzzzzz'\. Expected a Hub id .*, or one of beans, .*, digits$"),
        ("two words", "expected OWNER/NAME, OWNER/NAME:CONFIG or OWNER/NAME@REVISION, got 'two words'"),
        ("food101@", "expected OWNER/NAME, .*, got 'food101@'"),
        ("photo/", r"no such file or folder: .*photo$"),
        ("owner/name:", "expected OWNER/NAME, .*, got 'owner/name:'"),
        ("a:b:c", "expected OWNER/NAME, .*, got 'a:b:c'"),
        ([1, 2], r"must be a name, a path, a datasets.Dataset or a DatasetDict, got list.*Dataset.from_dict"),
        (None, "must be a name, .*, got NoneType"),
        ({"train": []}, "must be a name, .*, got dict"),
        (DatasetDict(), "the DatasetDict has no splits"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=message):
        source.load(name)


def test_without_a_network_the_ways_out_are_named():
    with pytest.raises(DatasetError, match=r"no network, and ethz/food101 is not in the local cache.*HF_ENDPOINT"):
        source.load("food101")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pets.zip", b"PK", r"cannot read pets.zip: File is not a zip file; unpack it yourself and give --dataset the"),
        ("pets", b"text", r"expected a folder or a .parquet, .arrow, .tar, .zip, .tgz, .* file, got ''"),
        ("pets.json", b"{}", r"cannot read .*pets.json: it holds no rows of a table, and no images"),
        ("bad.parquet", b"PAR1 and nothing of it", r"cannot read .*bad.parquet: .*Parquet magic bytes not found"),
        ("empty.parquet", b"", r"cannot read .*empty.parquet: .*"),
        ("bad.arrow", b"no arrow", r"cannot read .*bad.arrow: "),
        ("bad.tar", b"no archive" * 100, r"cannot read .*bad.tar: invalid header"),
        ("bad.TAR", b"", r"cannot read .*bad.TAR: "),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        source.load(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no files; expected a folder of images .one folder a class. or of parquet files"),
        (["sub/.hidden"], "holds no files"),
        (["notes.xyz"], "cannot read .*No .supported. data files found"),
    ],
)
def test_folders_without_data(tmp_path, files, message):
    (tmp_path / "pets" / "sub").mkdir(parents=True)
    for name in files:
        (tmp_path / "pets" / name).write_text("content")
    with pytest.raises(DatasetError, match=message):
        source.load(tmp_path / "pets")


def test_a_folder_of_images_without_classes_says_how_to_lay_it_out(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    with pytest.raises(SchemaError, match=r"no column holds classes: .*a folder of its own"):
        prepare(str(tmp_path))


# --- prepare ---------------------------------------------------------------------------------------------------------


def spoiled(count, bad, unlabelled=()):
    """`table(count)` in which some images do not decode and some have no label."""
    whole = table(count)
    columns = {
        "image": [{"path": None, "bytes": b"GIF8" if n in bad else png(n)} for n in range(count)],
        "label": [None if n in unlabelled else n % 3 for n in range(count)],
    }
    return Dataset.from_dict(columns, features=whole.features)


def all_rows(ready, name):
    return sorted(int(row) for part in ready.splits.parts.values() if part.source == name for row in part.rows)


def test_images_that_do_not_decode_are_left_out_and_listed(caplog):
    ready = prepare(spoiled(40, bad=[0, 17, 39]))
    assert all_rows(ready, "train") == [n for n in range(40) if n not in (0, 17, 39)]
    assert [image.row for image in ready.undecodable["train"]] == [0, 17, 39]
    listed = excluded(ready)
    assert [entry["row"] for entry in listed["undecodable"]["train"]] == [0, 17, 39]
    assert all("UnidentifiedImageError" in entry["reason"] for entry in listed["undecodable"]["train"])
    assert listed["unlabelled"] == {}
    assert "left out: 3 images of 'train' that do not decode, rows 0, 17, 39" in caplog.messages


def test_images_without_a_label_are_left_out_and_counted(caplog):
    ready = prepare(spoiled(40, bad=[6], unlabelled=[5, 6, 7]))
    assert all_rows(ready, "train") == [n for n in range(40) if n not in (5, 6, 7)]
    assert ready.unlabelled == {"train": 3}
    assert ready.undecodable == {}  # row 6 has no label: nobody looks at its image
    assert excluded(ready) == {"undecodable": {}, "unlabelled": {"train": 3}}
    assert "left out: 3 images of 'train' without a label" in caplog.messages


def test_a_test_split_without_labels_does_not_count(caplog):
    """As the Hub's imagenet-1k has it: train, validation, and a test of -1."""
    hidden = table(9, first=200).map(lambda row: {"label": -1})
    ready = prepare(DatasetDict(train=table(), validation=table(12, first=100), test=hidden))
    assert {role: part.source for role, part in ready.splits.parts.items()} == {
        "train": "train",
        "validation": "train",
        "test": "validation",
    }
    assert ready.splits.counts() == {"train": 27, "validation": 3, "test": 12}
    assert ready.splits.held_out == {"validation": {"from": "train", "fraction": 0.1}}
    assert ready.splits.ignored == ("test",)
    assert "not used: split 'test'" in caplog.messages


@pytest.mark.parametrize("hidden", [-1, None])
def test_minus_one_in_a_column_of_integers_is_no_class_of_a_test_split(hidden):
    features = Features(image=Image(), label=Value("int64"))
    train = Dataset.from_dict({"image": table()["image"][:], "label": table()["label"][:]}, features=features)
    test = Dataset.from_dict({"image": table(9)["image"][:], "label": [hidden] * 9}, features=features)
    ready = prepare(DatasetDict(train=train, test=test))
    assert ready.schema.classes == ("0", "1", "2")
    assert ready.splits.ignored == ("test",)


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_a_split_without_the_target_column_does_not_count(order):
    both = {"train": table(), "test": table(9).remove_columns("label")}
    ready = prepare(DatasetDict({name: both[name] for name in order}))
    assert ready.splits.counts() == {"train": 24, "validation": 3, "test": 3}
    assert ready.splits.ignored == ("test",)


def test_splits_that_number_their_classes_differently_are_refused():
    turned = table(9).cast_column("label", ClassLabel(names=NAMES[::-1]))
    with pytest.raises(SchemaError, match=r"'label' of split 'test' has classes cow, bee, ant, in another .* ant, bee"):
        prepare(DatasetDict(train=table(), test=turned))


def test_a_dataset_without_any_label_is_refused():
    hidden = table(9).map(lambda row: {"label": -1})
    with pytest.raises(DatasetError, match=r"column 'label' has no labels in any split \(train\)"):
        prepare(hidden)


def test_a_split_in_which_no_image_decodes_is_refused_with_its_rows():
    with pytest.raises(
        DatasetError, match=r"no image of the 'train' split decodes: rows 0, .*\(12 in all\)\. Row 0: Un"
    ):
        prepare(spoiled(12, bad=range(12)))
    with pytest.raises(DatasetError, match=r"no image of the 'test' split decodes: rows 0, 1, 2\. Row 0: Unidentified"):
        prepare(DatasetDict(train=table(), test=spoiled(3, bad=range(3))))


def test_a_class_that_loses_its_images_is_named():
    # Of class cow (rows 2, 5, 8, ...) two images are left, and three are needed.
    with pytest.raises(SplitError, match=r"every class needs at least 3 images, not 'cow' \(2\)"):
        prepare(spoiled(15, bad=[2, 5, 8]))


def test_a_missing_image_file_is_found(tmp_path):
    folder = image_folder(tmp_path / "pets")
    rows = [{"image": str(path), "label": path.parent.name} for path in sorted(folder.rglob("*.png"))]
    rows[4]["image"] = str(folder / "gone.png")
    rows[5]["image"] = None
    ready = prepare(Dataset.from_list(rows), image_column="image", target_column="label")
    assert [image.row for image in ready.undecodable["train"]] == [4, 5]
    reasons = [image.reason for image in ready.undecodable["train"]]
    assert "gone.png" in reasons[0]
    assert reasons[1] == "ValueError: no image"


def test_the_number_of_images_is_limited_by_split_and_class(caplog):
    ready = prepare(DatasetDict(train=table(300), test=table(90)), max_samples=60)
    assert ready.splits.counts() == {"train": 54, "validation": 6, "test": 60}
    used = np.concatenate([ready.splits.parts[role].targets for role in ("train", "validation")])
    assert np.bincount(used).tolist() == [20, 20, 20]
    assert np.bincount(ready.splits.parts["test"].targets).tolist() == [20, 20, 20]
    assert not ready.splits.parts["test"].whole
    again = prepare(DatasetDict(train=table(300), test=table(90)), max_samples=60)
    other = prepare(DatasetDict(train=table(300), test=table(90)), max_samples=60, seed=1)
    for role, part in ready.splits.parts.items():
        np.testing.assert_array_equal(part.rows, again.splits.parts[role].rows)
        assert set(part.rows) != set(other.splits.parts[role].rows)


def test_only_the_images_that_are_used_are_looked_at(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        account, "scan", lambda split, column, rows, limit, recorder=None: looked_at.extend(rows) or Scan([])
    )
    prepare(table(300), max_samples=60)
    assert len(looked_at) == 60


def test_named_columns_splits_and_fractions_are_heeded():
    both = table(60).add_column("hand", ["left", "right"] * 30)
    ready = prepare(
        DatasetDict(a=both, b=both.select(range(20))),
        target_column="hand",
        train_split="a",
        test_split="b",
        val_fraction=0.3,
    )
    assert ready.schema.classes == ("left", "right")
    assert ready.splits.counts() == {"train": 42, "validation": 18, "test": 20}
    with pytest.raises(SplitError, match="--train-split: no labelled split 'c'"):
        prepare(DatasetDict(a=both), train_split="c")


def test_what_was_inferred_is_said(caplog):
    prepare(DatasetDict(train=table(30), test=table(9)))
    assert caplog.messages == [
        "task: image-classification, images in column 'image', 3 classes in column 'label' (class-label): "
        "ant, bee, cow",
        "train: 27 images (split 'train')",
        "validation: 3 images (held out, 10% of train, by class)",
        "test: 9 images (split 'test')",
    ]


def test_absent_and_uneven_classes_are_said(caplog):
    uneven = table(40).filter(lambda row, n: row["label"] == 0 or (row["label"] == 1 and n < 18), with_indices=True)
    prepare(uneven)
    assert "warning: no training image of cow; the model cannot learn these classes" in caplog.messages
    assert "imbalance: the largest class has 3.0 times the images of the smallest" in caplog.messages
