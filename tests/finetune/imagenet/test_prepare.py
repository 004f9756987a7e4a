"""`python -m finetune prepare-imagenet`: what comes out, and that everything of ours reads it."""

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torchvision.datasets.imagenet
from datasets import ClassLabel, Features, Image

from finetune.data import source
from finetune.data.dataset import prepare as prepare_dataset
from finetune.errors import DatasetError
from finetune.imagenet import checksums
from finetune.tasks.classification.task import CLASSIFICATION
from tests.finetune.imagenet.originals import CLASSES, ORDER, TRAIN, Originals, md5sums, tree

NAMES = [
    "tench, Tinca tinca",
    "goldfish, Carassius auratus",
    "cock",
    "crane (n02012849)",
    "kit fox, Vulpes macrotis",
    "tabby, tabby cat",
    "crane (n03126707)",
    "maillot",
    "maillot, tank suit",
    "sweatshirt",
    "water bottle",
    "banana",
]


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(folder, split):
    """Name, bytes and label of every row of a split, as plain pyarrow reads them."""
    tables = [pq.read_table(path).to_pylist() for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
    return [(row["image"]["path"], row["image"]["bytes"], row["label"]) for table in tables for row in table]


def test_every_image_is_there_with_its_bytes_and_the_class_of_its_wordnet_id(prepared, originals):
    folder, _ = prepared
    train = rows(folder, "train")
    assert len(train) == sum(len(images) for images in originals.images.values()) == 102
    assert {name: (content, label) for name, content, label in train} == originals.expected_train()
    assert rows(folder, "validation") == originals.expected_validation()


def test_the_two_numberings_differ_so_that_a_mix_up_would_show():
    by_devkit = [wordnet_id for _, wordnet_id in sorted((number, wordnet_id) for wordnet_id, number, _ in CLASSES)]
    assert sum(a == b for a, b in zip(by_devkit, ORDER, strict=True)) < 3


@pytest.mark.usefixtures("_cache")
def test_the_dataset_flag_reads_the_folder(prepared, originals):
    folder, _ = prepared
    opened = source.load(str(folder))
    assert opened.license == "other"
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 102, "validation": 30}
    for split in opened.splits.values():
        assert split.features == Features(image=Image(), label=ClassLabel(names=NAMES))
    ready = prepare_dataset(opened, CLASSIFICATION, val_fraction=0.4)
    assert ready.schema.classes == tuple(NAMES)
    assert not ready.undecodable
    assert not ready.unlabelled
    # With train and one other, the other is the test split.
    assert ready.splits.parts["test"].source == "validation"
    assert ready.splits.parts["test"].targets.tolist() == [label for _, _, label in originals.expected_validation()]
    assert ready.splits.parts["validation"].source == "train"
    images = originals.expected_train()
    encoded = ready.encoded("train")
    for row, label in zip(ready.splits.parts["train"].rows, ready.splits.parts["train"].targets, strict=True):
        image = encoded[int(row)]["image"]
        assert (image["bytes"], label) == images[image["path"]]


@pytest.mark.usefixtures("_cache")
def test_a_stranger_knows_the_features_of_a_shard_alone(prepared):
    folder, _ = prepared
    files = str(folder / "data" / "train-00000-*.parquet")
    split = datasets.load_dataset("parquet", data_files=files, split="train")
    assert split.features == Features(image=Image(), label=ClassLabel(names=NAMES))
    assert split[0]["image"].size[1] == 24


@pytest.mark.usefixtures("_cache")
def test_a_lost_shard_is_noticed_when_the_folder_is_read(prepared, tmp_path):
    folder = shutil.copytree(prepared[0], tmp_path / "copy")
    next((folder / "data").glob("train-00001-*")).unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*copy"):
        source.load(str(folder))


def test_shards_have_the_size_asked_for_and_small_row_groups(tars, tmp_path, cli, prepared):
    folder, _ = prepared
    shards = sorted((folder / "data").glob("train-*.parquet"))
    names = [f"train-{n:05}-of-{len(shards):05}.parquet" for n in range(len(shards))]
    assert [path.name for path in shards] == names
    sizes = [sum(len(content) for _, content, _ in rows_of(path)) for path in shards]
    largest = max(len(content) for path in shards for _, content, _ in rows_of(path))
    assert len(shards) == -(-sum(sizes) // 20_000) > 5
    assert max(sizes) <= 20_000 + largest
    assert max(sizes) - min(sizes) <= 2 * largest  # no small rest at the end
    whole = tmp_path / "whole"
    done = cli("finetune", "prepare-imagenet", "--tars", tars, "--output", whole, "--no-verify", "--processes", 2)
    assert done.returncode == 0, done.stderr
    (path,) = (whole / "data").glob("train-*.parquet")
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [100, 2]
    column = metadata.row_group(0).column(0)
    assert column.path_in_schema == "image.bytes"
    assert column.compression == "UNCOMPRESSED"
    assert column.statistics is None
    # The order does not depend on the size of the shards.
    assert rows(whole, "train") == rows(folder, "train")


def rows_of(path):
    return [(r["image"]["path"], r["image"]["bytes"], r["label"]) for r in pq.read_table(path).to_pylist()]


def test_training_images_are_shuffled_over_the_shards(prepared):
    labels = np.array([label for _, _, label in rows(prepared[0], "train")])
    # In a fair shuffle of these 102, neighbours share a class about 9 times in a hundred.
    assert (labels[1:] == labels[:-1]).mean() < 0.25
    half = len(labels) // 2
    assert min(len(set(labels[:half])), len(set(labels[half:]))) > 9  # 6 or 7 in the order of the classes


def test_classes_json_has_every_number_of_a_class(prepared):
    classes = json.loads((prepared[0] / "classes.json").read_text(encoding="utf-8"))
    assert [entry["wordnet_id"] for entry in classes] == ORDER
    assert [entry["label"] for entry in classes] == list(range(12))
    assert [entry["name"] for entry in classes] == NAMES
    numbers = {wordnet_id: (number, words) for wordnet_id, number, words in CLASSES}
    for entry in classes:
        assert (entry["ilsvrc2012_id"], entry["words"]) == numbers[entry["wordnet_id"]]
        assert entry["gloss"] == f"gloss of {entry['wordnet_id']}"


def test_the_manifest_is_sha256sums(prepared):
    folder, _ = prepared
    lines = (folder / "checksums.sha256").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert listed == {
        f"data/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "data").iterdir()
    }


def test_it_says_what_it_wrote_and_what_comes_next(prepared):
    folder, done = prepared
    assert done.stderr == ""  # no progress bar where nobody watches
    shards = list((folder / "data").iterdir())
    size = sum(path.stat().st_size for path in shards)
    wrote = f"wrote 102 train images, 30 validation images in {len(shards)} shards, {size / 1e9:.3f} GB, to {folder}"
    assert wrote in done.stdout
    assert f"python -m finetune --recipe imagenet --model resnest50 --dataset {folder}\n" in done.stdout
    assert f"cd {folder} && sha256sum -c checksums.sha256" in done.stdout


def test_only_the_dataset_is_left(prepared):
    folder, _ = prepared
    names = {"README.md", "checksums.sha256", "classes.json", "data", "prepared.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(re.fullmatch(r"(train|validation)-\d{5}-of-\d{5}\.parquet", p.name) for p in (folder / "data").iterdir())


def test_the_bytes_do_not_depend_on_the_number_of_processes(prepared, tars, tmp_path, cli):
    arguments = ["--tars", tars, "--output", tmp_path / "out", "--no-verify", "--shard-size", 0.02, "--processes", 3]
    done = cli("finetune", "prepare-imagenet", *arguments)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(prepared[0])


def test_a_shard_may_be_smaller_than_an_image(tmp_path, cli):
    originals = Originals(fewest=1, validation=2)
    tars = originals.write(tmp_path / "tars")
    arguments = ["--tars", tars, "--output", tmp_path / "out", "--no-verify", "--shard-size", 0.0003, "--processes", 1]
    done = cli("finetune", "prepare-imagenet", *arguments)
    assert done.returncode == 0, done.stderr
    images = {name: (content, label) for name, content, label in rows(tmp_path / "out", "train")}
    assert images == originals.expected_train()
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00078.parquet"))) == 78  # one each


def test_the_sums_are_those_that_torchvision_checks():
    known = {name: md5 for name, md5 in torchvision.datasets.imagenet.ARCHIVE_META.values()}
    assert len(checksums.OFFICIAL) == 3
    assert checksums.OFFICIAL.items() <= known.items()


def test_checksums_of_ones_own_are_compared(tars, tmp_path, cli):
    sums = tmp_path / "sums"
    sums.write_text(md5sums(tars))
    arguments = ["prepare-imagenet", "--tars", tars, "--output", tmp_path / "out", "--processes", 1]
    done = cli("finetune", *arguments, "--checksums", sums)
    assert done.returncode == 0, done.stderr
    assert f"checksums: {TRAIN}, " in done.stdout
    recorded = json.loads((tmp_path / "out" / "prepared.json").read_text())["tars"]
    assert {name: tar["md5"] for name, tar in recorded.items()} == checksums.read(sums)


def test_the_package_waits_for_nothing_heavy():
    code = "import sys, finetune.imagenet.prepare; print({'torch', 'timm', 'datasets', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_terminal_gets_bars_of_bytes_tars_and_images(tars, tmp_path):
    (tmp_path / "sums").write_text(md5sums(tars))
    arguments = ["--tars", tars, "--output", tmp_path / "out", "--checksums", tmp_path / "sums", "--processes", 1]
    command = [sys.executable, "-m", "finetune", "prepare-imagenet", *map(str, arguments)]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while chunk := os.read(ours, 4096):
                said += chunk
    os.close(ours)
    assert process.returncode == 0, said
    for bar in (r"checksums: 100%\S* \d+k/\d+k", r"tars' headers: 100%\S* 13\.0/13\.0", r"writing: 100%\S* 132/132"):
        assert re.search(bar, said.decode())
