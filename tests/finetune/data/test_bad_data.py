"""Every kind of bad or odd data, one by one: it works and is counted, or it is a clear error."""

import io
import json
import logging
import os
import shutil
import struct
import threading
import time
import zlib

import datasets
import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader

from finetune.cli import main
from finetune.data import images
from finetune.data import scan as scan_module
from finetune.data.images import ImageError, decode
from finetune.data.scan import scan
from finetune.errors import DatasetError, LostImageError, SchemaError, SplitError
from finetune.loading import transforms
from finetune.loading.datamodule import ImageRows
from finetune.loading.sampler import EvalBatches
from finetune.loading.transforms import ImageAlone
from tests.finetune.classes import prepare, whole_split


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch, caplog):
    """A cache of our own, and the log where `caplog` sees it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    caplog.set_level(logging.INFO, "finetune")


def pixels(seed=0, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(seed=0, form="PNG", **options):
    return encoded(Image.fromarray(pixels(seed)), form, **options)


def held(content):
    return {"bytes": content, "path": None}


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claims(width, height):
    """A PNG of a few bytes that says it is so large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
MOV = b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  " + bytes(100)

# --- one image -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (bytes(5000), "nothing but zero bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page, perhaps of a failed download"),
        (b"\xef\xbb\xbf\n  <html><head>", "an HTML page, perhaps of a failed download"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing: convert it to PNG"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="3">', "an SVG drawing: convert it to PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS: .* git lfs pull"),
        (HEIC, "a HEIC photo: convert it to JPEG, or pip install pillow-heif"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "a HEIC photo: .*"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif", "an AVIF image, which this Pillow cannot read: .*"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "a camera's raw image: .*"),
        (MOV, r"a video \(QuickTime or MP4\)"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", r"a video \(AVI\)"),
        (b"\x1aE\xdf\xa3\x01\x00\x00\x00", r"a video \(Matroska\)"),
        (b"%PDF-1.4\n%", "a PDF document"),
        (b"PK\x03\x04\x14\x00", "a ZIP archive"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", r"an AppleDouble file \(._NAME.*"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL image: .*"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image: .*"),
        (b'{"error":\n "AccessDenied"}', "text, not an image"),
        (("x" + "é" * 600).encode(), "text, not an image"),  # the head may end within a character
        (b"GIF89a", "UnidentifiedImageError: cannot identify image file"),  # Pillow says it as well as anybody
        (b"GIF8\xff\xff\xff\xff\xff\xff", "UnidentifiedImageError: cannot identify image file"),
        (picture()[:300], "OSError: .*truncated.*"),
        (claims(20, 20), "OSError: .*truncated.*|SyntaxError: .*"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    features = Features(image=ImageFeature(decode=False))
    both = Dataset.from_dict({"image": [held(content), {"bytes": None, "path": str(path)}]}, features=features)
    bad = scan(both, "image", [0, 1]).bad
    assert [image.row for image in bad] == [0, 1]
    assert [image.path for image in bad] == [None, str(path)]
    for image in bad:
        with pytest.raises(ImageError, match=f"^{reason}( '.*photo.jpg')?$"):
            raise ImageError(image.reason)


def test_a_web_address_is_refused_without_asking_the_web():
    for address in ("http://127.0.0.1:9/a.jpg", "https://example.org/a.jpg"):
        with pytest.raises(ImageError, match="a web address and no image: download the images first"):
            decode({"bytes": None, "path": address})


def test_bytes_win_over_a_path_that_leads_elsewhere(tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(picture(1))
    for path in (str(other), "/nowhere/gone.png", "gone.png"):
        np.testing.assert_array_equal(np.asarray(decode({"bytes": picture(2), "path": path})), pixels(2))


def test_a_jpeg_of_inks_as_adobe_writes_it_has_the_right_colours():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1:3] = 255  # magenta and yellow: red
    content = encoded(Image.frombytes("CMYK", (16, 16), inks.tobytes()), "JPEG")
    assert b"Adobe" in content  # whose programs write complements, and so does Pillow
    red, green, blue = np.asarray(decode(held(content)), dtype=int).mean(axis=(0, 1))
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_jpeg_is_turned_upright(orientation):
    """The corner that is white in the file goes where the standard says; 5 to 8 swap the sides."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255  # row 0, column 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = np.asarray(decode(held(encoded(Image.fromarray(stored), "JPEG", quality=95, exif=exif)))) > 127
    assert image.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    corners = {
        name: bool(image[y, x].all()) for name, y, x in (("tl", 2, 2), ("tr", 2, -3), ("bl", -3, 2), ("br", -3, -3))
    }
    white = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    assert corners == {name: name == white for name in corners}


@pytest.mark.parametrize("tag", [b"\x01\x31", b"\x01\x1c"], ids=["Software", "PlanarConfiguration"])
def test_damaged_exif_costs_no_image(tag):
    """Orientation 6 beside a text or a short that is stored as a fraction, which Pillow reads and cannot write."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    content = exif.tobytes().replace(b"\x01\x1a\x00\x05", tag + b"\x00\x05")
    assert decode(held(picture(form="JPEG", exif=content))).size == (20, 24)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_large_images_of_sixteen_bits_and_floats_are_scaled_in_blocks(form, monkeypatch):
    monkeypatch.setattr(images, "_BLOCK", 100)
    values = np.linspace(0, 1, 40 * 30).reshape(40, 30)
    greys = (values * 65535).astype(np.uint16)
    assert np.abs(np.asarray(decode(held(encoded(Image.fromarray(greys), form))))[..., 0] - greys / 257).max() <= 0.5
    if form == "TIFF":
        floats = Image.fromarray(values.astype(np.float32))
        assert np.abs(np.asarray(decode(held(encoded(floats, form))))[..., 0] - values * 255).max() < 0.51


# --- large, thin and tiny --------------------------------------------------------------------------------------------


def test_a_large_image_is_refused_by_its_header_and_the_limit_can_be_raised(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    table = Dataset.from_dict(
        {"image": [held(claims(50_000, 20_000)), held(claims(15_000, 12_000)), held(picture())]},
        features=Features(image=ImageFeature(decode=False)),
    )

    def reasons(*limit):
        return {image.row: image.reason for image in scan(table, "image", range(3), *limit).bad}

    found = reasons()
    assert set(found) == {0, 1}
    assert found[1].startswith(
        "15000 x 12000 = 180000000 pixels, more than the 178956970 allowed; to use it raise --max-"
    )
    assert found[0].startswith("1000000000 pixels, more than the 178956970 allowed; to use it raise --max-image-pixels")
    small = reasons(479)  # of 24 x 20 there are 480
    assert small[2].startswith("24 x 20 = 480 pixels, more than the 479 allowed")
    assert set(reasons(480)) == {0, 1}
    monkeypatch.setattr(Image.Image, "load", lambda self: (_ for _ in ()).throw(MemoryError("decoded")))
    raised = reasons(10**9)
    assert raised[0] == raised[1] == "MemoryError: decoded"
    assert set(reasons(10**9 - 1)) == {0, 1, 2}
    assert Image.MAX_IMAGE_PIXELS == 10**9


def test_threads_wait_for_each_other_where_images_are_large(monkeypatch):
    now, most, lock = [0], [0], threading.Lock()

    def slow(image):
        with lock:
            now[0] += image.width * image.height
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= image.width * image.height
        return image

    monkeypatch.setattr(images, "upright", slow)
    monkeypatch.setattr(scan_module, "_CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    sizes = [(20, 20)] * 12 + [(60, 60)] * 2 + [(10, 10)] * 4
    table = Dataset.from_dict(
        {"image": [held(encoded(Image.new("RGB", size))) for size in sizes]},
        features=Features(image=ImageFeature(decode=False)),
    )
    for limit, expected in ((1200, 3600), (10**6, 3601)):  # one above the limit goes alone
        most[0] = 0
        monkeypatch.setattr(scan_module, "_PIXELS_AT_ONCE", limit)
        assert scan(table, "image", range(18), 10**6 + limit).bad == []
        assert most[0] == expected if limit < 10**6 else most[0] >= expected


SIZES = [(1, 1), (1, 7), (3, 2), (200, 2), (2, 201), (1, 300), (300, 1), (7, 1403)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_thin_and_tiny_images_are_evaluated_as_timm_does_but_for_the_memory(size, monkeypatch):
    config = resolve_data_config({"input_size": (3, 32, 32)}, pretrained_cfg={"crop_pct": 0.875})
    long = max(size) > 100 * min(size)
    shades = np.linspace(0, 255, max(size)).round().astype(np.uint8)
    shaded = np.broadcast_to(shades[:, None] if size[0] > size[1] else shades, size)
    image = Image.fromarray(np.stack([shaded] * 3, axis=-1) if long else pixels(0, *size))
    expected = create_transform(**config, is_training=False)(image)
    areas = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, to, *a, **k: areas.append(to[0] * to[1]) or real(self, to, *a, **k)
    )
    ours = transforms.normalised(config)(image)
    assert max(areas, default=0) <= 37 * 3700
    # The scale of the long side is rounded to a pixel of the whole image, or of what was cut from it.
    torch.testing.assert_close(ours, expected, atol=0.03 if long else 0, rtol=0)
    for transform in (transforms.training(config), transforms.paper(config)):
        assert transform(image).shape == (3, 32, 32)


# --- files that change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["paths", "images"])
def test_a_file_behind_a_path_that_changes_is_looked_at_again(tmp_path, kind):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for n, path in enumerate(files):
        path.write_bytes(picture(n))
    feature = Value("string") if kind == "paths" else ImageFeature()
    table = Dataset.from_dict({"image": [str(path) for path in files]}, features=Features(image=feature))
    table = table.select([3, 2, 1, 0])  # row 0 is file 3
    fingerprint = table._fingerprint

    def bad(rows=range(4)):
        return [image.row for image in scan(table, "image", rows).bad]

    assert bad() == []
    files[2].write_bytes(picture(2)[:50])
    assert bad() == [1]
    files[0].unlink()
    assert bad() == [1, 3]
    files[2].write_bytes(picture(2))
    assert bad() == [3]
    files[0].write_bytes(picture(0))
    assert bad([0, 3]) == []
    assert bad([0]) == []
    files[3].write_bytes(b"")
    assert bad([0]) == [0]
    assert table._fingerprint == fingerprint


def test_embedded_images_are_not_read_for_the_key_of_the_cache(tmp_path):
    (tmp_path / "0.png").write_bytes(picture())
    values = [{"bytes": picture(), "path": "0.png"}, None, {"bytes": None, "path": str(tmp_path / "0.png")}]
    table = Dataset.from_dict({"image": values}, features=Features(image=ImageFeature()))
    assert list(scan_module._files(table, "image", np.arange(3))) == [str(tmp_path / "0.png")]
    assert list(scan_module._files(table, "image", np.array([1, 0]))) == []
    for field, expected in (("bytes", []), ("path", ["0.png"])):
        alone = Dataset.from_dict({"image": [{field: "0.png"}]})
        assert list(scan_module._files(alone, "image", np.arange(1))) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_after_the_search_is_named(tmp_path, workers):
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path in paths:
        path.write_bytes(picture())
    table = Dataset.from_dict({"image": [str(path) for path in paths]}, split="train")
    both = ImageAlone(*2 * [lambda image: torch.zeros(3, 8, 8)])
    rows = ImageRows(table, "image", np.array([1, 3]), np.array([0, 1]), both)
    loader = DataLoader(rows, batch_size=None, sampler=EvalBatches(2, 2, 0, 1), num_workers=workers)
    assert len(list(loader)) == 1
    paths[3].unlink()
    message = (
        r"row 3 of split 'train' decoded when .*, and now does not \(FileNotFoundError: .*3.png'\): .* --resume, or"
    )
    with pytest.raises(LostImageError, match=f"^{message}") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


# --- folders ---------------------------------------------------------------------------------------------------------


CONTENT = {".heic": HEIC, ".mov": MOV, ".xml": b"<a/>", ".csv": b"a,b", ".txt": b"words", ".aae": b"<?xml?>"}
FORMS = {".jpg": "JPEG", ".jpeg": "JPEG", ".avif": "AVIF"}


def tree(root, *patterns):
    """Files below `root`, images where their suffix does not say otherwise; * stands for six of them."""
    names = [pattern.replace("*", str(n)) for pattern in patterns for n in range(6 if "*" in pattern else 1)]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower()
        path.write_bytes(CONTENT.get(suffix) or picture(number, FORMS.get(suffix, "PNG")))
    return root


PETS = ("ant/*.png", "bee/*.png")


@pytest.mark.parametrize(
    ("files", "classes", "counts", "said"),
    [
        (PETS, "ant bee", (8, 2, 2), []),
        (["ant/*.JPG", "bee/*.JPEG", "bee/more*.avif"], "ant bee", (14, 2, 2), []),
        (["zoo/pets/ant/*.png", "zoo/pets/bee/*.png"], "ant bee", (8, 2, 2), []),
        (["été/*.png", "猫/*.png"], "été 猫", (8, 2, 2), []),
        ([*PETS, "ant/my-test-photo.png"], "ant bee", (9, 2, 2), []),
        (["train/*.png", "bus/*.png", "test tube/*.png"], "bus|test tube|train", (12, 3, 3), []),
        ([f"{s}/{p}" for s in ("Train", "VAL", "testing") for p in PETS], "ant bee", (12, 12, 12), []),
        ([f"dev/{s}/{p}" for s in ("train", "val", "test") for p in PETS], "ant bee", (12, 12, 12), []),
        (
            [f"seg_{s}/seg_{s}/{p}" for s in ("train", "test") for p in PETS] + ["seg_pred/*.png"],
            "ant bee",
            (10, 2, 12),
            ["warning: left out: 6 images outside of the split folders (6 in seg_pred)"],
        ),
        ([f"train/{p}" for p in PETS] + ["test/*.png"], "ant bee", (8, 2, 2), ["not used: split 'test'"]),
        ([*PETS, "cover.png"], "ant bee", (8, 2, 2), ["left out: 1 images of 'train' without a label"]),
        (
            [*PETS, "ant/.DS_Store", "ant/._0.png", "ant/Thumbs.db", "__MACOSX/ant/0.png", ".git/ant/1.png"],
            "ant bee",
            (8, 2, 2),
            [],
        ),
        (
            [*PETS, "ant/*.xml", "bee/*.xml", "notes.csv"],
            "ant bee",
            (8, 2, 2),
            ["not read: 12 .xml, 1 .csv files, no images"],
        ),
        (
            [*PETS, "ant/*.txt", "bee/*.txt", "bee/more*.txt"],
            "ant bee",
            (8, 2, 2),
            ["not read: 18 .txt files, no images"],
        ),
        (
            ["ant/*.JPG", "bee/*.JPG", "ant/*.MOV", "bee/*.MOV", "bee/*.AAE", "bee/*.HEIC", "ant/z.HEIC"],
            "ant bee",
            (8, 2, 2),
            [
                "not read: 12 .mov, 6 .aae files, no images",
                "left out: 7 images of 'train' that do not decode, rows 6, 7, 9, 11, 13, 15, 17",
                "  7: a HEIC photo: convert it to JPEG, or pip install pillow-heif (ROOT/ant/z.HEIC)",
            ],
        ),
        ([*PETS, "cow/"], "ant bee", (8, 2, 2), ["warning: no image in cow: no such class"]),
    ],
)
def test_folders(tmp_path, caplog, files, classes, counts, said):
    root = tree(tmp_path / "pets", *(name for name in files if not name.endswith("/")))
    for name in files:
        (root / name).mkdir() if name.endswith("/") else None
    ready = prepare(str(root))
    assert ready.schema.classes == tuple(classes.split("|" if "|" in classes else " "))
    assert tuple(ready.splits.counts().values()) == counts
    expected = [line for line in caplog.messages if line.startswith(("warning", "left out", "not ", "  "))]
    assert [line.replace(str(root), "ROOT") for line in expected] == said
    for role, part in ready.splits.parts.items():
        for row, label in zip(part.rows, part.targets, strict=True):
            path = ready.encoded(role)[int(row)]["image"]["path"]
            assert os.path.basename(os.path.dirname(path)) == ready.schema.classes[label]


def test_links_are_followed_once_and_broken_ones_counted(tmp_path):
    root = tree(tmp_path / "pets", "bee/*.png")
    (root / "ant").symlink_to(tree(tmp_path / "elsewhere", "*.png"))
    (root / "bee" / "loop").symlink_to(root)
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    ready = prepare(str(root))
    assert ready.splits.counts() == {"train": 8, "validation": 2, "test": 2}
    assert [image.path for image in ready.undecodable["train"]] == [str(root / "bee" / "gone.png")]


def test_a_folder_that_changes_has_another_fingerprint(tmp_path):
    root = tree(tmp_path / "pets", *PETS)
    before = prepare(str(root)).source.splits["train"]._fingerprint
    assert prepare(str(root)).source.splits["train"]._fingerprint == before
    (root / "ant" / "0.png").write_bytes(picture(99))
    assert prepare(str(root)).source.splits["train"]._fingerprint != before


@pytest.mark.parametrize("extra", ["metadata.jsonl", "data/train-00000-of-00001.parquet", "README.md"])
def test_folders_that_say_themselves_what_they_hold(tmp_path, extra):
    plain = {"data/train-00000-of-00001.parquet": ["ant/0.png"], "metadata.jsonl": ["all/*.png", "all/more*.png"]}
    root = tree(tmp_path / "pets", *plain.get(extra, PETS))
    (root / extra).parent.mkdir(exist_ok=True)
    if extra == "metadata.jsonl":
        files = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
        (root / extra).write_text("\n".join(json.dumps({"file_name": f, "legs": n % 3}) for n, f in enumerate(files)))
    elif extra == "README.md":
        (root / extra).write_text("---\nconfigs:\n- config_name: default\n  data_files: ant/*\n---\n")
    else:
        columns = {"image": [held(picture(n)) for n in range(12)], "label": [n % 2 for n in range(12)]}
        features = Features(image=ImageFeature(), label=ClassLabel(names=["x", "y"]))
        Dataset.from_dict(columns, features=features).to_parquet(root / extra)
    if extra == "README.md":
        with pytest.raises(SchemaError, match="no column holds classes"):
            prepare(str(root))
    else:
        expected = {"metadata.jsonl": ("0", "1", "2"), "data/train-00000-of-00001.parquet": ("x", "y")}[extra]
        assert prepare(str(root)).schema.classes == expected


# --- labels and splits -----------------------------------------------------------------------------------------------


def labelled(labels, feature):
    columns = {"image": [held(picture(n)) for n in range(len(labels))], "label": labels}
    return Dataset.from_dict(columns, features=Features(image=ImageFeature(), label=feature))


AB = ClassLabel(names=["a", "b"])
GOOD = labelled([0, 1] * 6, AB)
NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "feature", "left_out", "said"),
    [
        ([0, 1, None, -1] * 4, AB, 8, []),
        (["a", "b", None, " ", ""] * 4, Value("string"), 12, []),
        (["cat", "Cat", "dog "] * 4, Value("string"), 0, ["case, spaces or Unicode form: 'Cat' and 'cat'; merge"]),
        (["été", "e\u0301te\u0301", "x"] * 4, Value("string"), 0, ["'e\u0301te\u0301' and 'été'"]),
        ([0, 1, 2] * 4, ClassLabel(names=["a", "a ", "b"]), 0, ["'a' and 'a '"]),
        (
            ["a", "b", "nan", "NaN"] * 4,
            Value("string"),
            0,
            ["'NaN' and 'nan'", "like missing labels: 'NaN', 'nan'; if"],
        ),
        ([0, 1, -1] * 4, Value("int64"), 0, ["look like missing labels: '-1'; if they are, make them null"]),
    ],
)
def test_labels(caplog, labels, feature, left_out, said):
    ready = prepare(labelled(labels, feature))
    assert ready.unlabelled == ({"train": left_out} if left_out else {})
    assert sum(ready.splits.counts().values()) == len(labels) - left_out
    warnings = [line for line in caplog.messages if line.startswith("warning")]
    assert len(warnings) == len(said)
    for line, part in zip(warnings, said, strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (labelled([], AB), {}, DatasetError, "the dataset is empty: no row in train"),
        (labelled([], Value("string")), {}, DatasetError, "the dataset is empty: no row in train"),
        (
            DatasetDict(train=labelled([], AB), test=GOOD),
            {"train_split": "train"},
            SplitError,
            "split 'train' is empty",
        ),
        (
            DatasetDict(train=GOOD, test=labelled([], AB)),
            {"test_split": "test"},
            SplitError,
            "split 'test' is empty: .*train",
        ),
        (DatasetDict(train=GOOD, test=labelled([-1], AB)), {"test_split": "test"}, SplitError, "'test' has no labels"),
        (labelled([0] * 9, ClassLabel(names=["a"])), {}, SchemaError, "has 1 class"),
        (labelled([0] * 9 + [1] * 2, AB), {}, SplitError, r"every class needs at least 3 images, not 'b' \(2\)"),
    ],
)
def test_labels_and_splits_that_are_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        prepare(data, **options)


def test_an_empty_test_split_is_said_and_another_held_out(caplog):
    ready = prepare(DatasetDict(train=GOOD, test=labelled([], AB)))
    assert ready.splits.counts() == {"train": 8, "validation": 2, "test": 2}
    assert "not used: split 'test', which is empty" in caplog.messages
    with pytest.raises(SplitError, match="split 'test' is empty: name another one, of train"):
        whole_split(DatasetDict(train=GOOD, test=labelled([], AB)), split="test")


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_class_that_training_never_sees_is_kept_and_said(caplog, role):
    parts = dict.fromkeys(("train", "validation", "test"), GOOD)
    three = ClassLabel(names=["a", "b", "c"])
    data = {name: labelled([0, 1] * 6 + [2] * (name == role), three) for name in parts}
    ready = prepare(DatasetDict(data))
    assert ready.schema.classes == ("a", "b", "c")
    assert ready.splits.counts()[role] == 13
    assert "warning: no training image of c; the model cannot learn these classes" in caplog.messages


# --- the command line ------------------------------------------------------------------------------------------------

ODD = {
    "grey.png": lambda: encoded(Image.fromarray(pixels()[..., 0])),
    "deep.png": lambda: encoded(Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257)),
    "deep.tif": lambda: encoded(Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257), "TIFF"),
    "bits.png": lambda: encoded(Image.fromarray(pixels()[..., 0] > 127)),
    "palette.png": lambda: encoded(Image.fromarray(pixels()).quantize(16)),
    "clear.png": lambda: encoded(Image.fromarray(pixels()).quantize(16), transparency=3),
    "alpha.png": lambda: encoded(Image.fromarray(pixels()).convert("RGBA")),
    "la.png": lambda: encoded(Image.fromarray(pixels()).convert("LA")),
    "inks.jpg": lambda: encoded(Image.fromarray(pixels()).convert("CMYK"), "JPEG"),
    "turned.JPG": lambda: encoded(
        Image.fromarray(pixels()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    ),
    "dot.png": lambda: encoded(Image.fromarray(pixels(0, 1, 1))),
    "thin.png": lambda: encoded(Image.fromarray(pixels(0, 1, 10_000))),
    "tall.png": lambda: encoded(Image.fromarray(pixels(0, 10_000, 1))),
    **{
        f"film.{suffix}": lambda form=form: encoded(
            Image.fromarray(pixels()), form, save_all=True, append_images=[Image.fromarray(pixels(1))]
        )
        for suffix, form in (("gif", "GIF"), ("webp", "WEBP"), ("apng", "PNG"))
    },
}
BAD = {
    "bomb.png": (lambda: claims(30_000, 30_000), "900000000 pixels, more than the 178956970 allowed; "),
    "cut.jpg": (lambda: picture(form="JPEG")[:400], "OSError: "),
    "empty.jpg": (lambda: b"", "an empty file"),
    "page.jpg": (lambda: b"<html>404</html>", "an HTML page"),
    "phone.heic": (lambda: HEIC, "a HEIC photo: "),
    "renamed.jpg": (lambda: MOV, "a video "),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow, of one of them
def test_a_folder_with_all_of_them_gives_a_model_that_says_what_it_left_out(tmp_path, capsys):
    root = tree(tmp_path / "pets", *PETS)
    for name, make in ODD.items():
        (root / "bee" / name).write_bytes(make())
    for name, (make, _) in BAD.items():
        (root / "ant" / name).write_bytes(make())
    (root / "ant" / "clip.MOV").write_bytes(MOV)
    shutil.copytree(root / "bee", root / "cow", ignore=lambda _, names: [name for name in names if name in ODD])
    run = tmp_path / "run"
    arguments = ["--model", "resnest14d", "--no-pretrained", "--image-size", "32", "--epochs", "1"]
    here = ["--accelerator", "cpu", "--workers", "0"]
    assert main([*arguments, *here, "--dataset", str(root), "--output", str(run)]) == 0
    said = capsys.readouterr().out
    assert "not read: 1 .mov files, no images" in said
    assert "left out: 6 images of 'train' that do not decode, rows " in said
    assert "3 images of 'train' have several frames or pages: the first is used" in said
    result = json.loads((run / "result.json").read_text())
    assert sum(result["dataset"]["splits"].values()) == 18 + len(ODD)
    left_out = result["dataset"]["excluded"]["undecodable"]["train"]
    assert len(left_out) == len(BAD)
    for (_, reason), entry in zip(sorted(BAD.items()), left_out, strict=True):
        assert entry["reason"].startswith(reason[1])
        assert reason[1].split(":")[0].rstrip("; ") in said or len(BAD) > 5
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)
    assert model.num_classes == 3
    assert main(["evaluate", str(run), *here, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(result["metrics"]["test"], abs=1e-5)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            ["ant/*.heic", "bee/*.heic"],
            [],
            "no image of the 'train' split decodes: .*Row 0: a HEIC photo: .*ant/0.heic",
        ),
        (["ant/*.mov", "bee/*.mov"], [], r"this is a dataset of videos \(column 'video'\): save frames"),
        (["ant/*.png"], [], r"column 'label' has 1 class \(ant\); expected at least 2"),
        ([*PETS, "cow/1.png"], [], r"every class needs at least 3 images, not 'cow' \(1\)"),
        (
            ["ant/*.png", "bee/more/*.png", "bee/less/*.png"],
            [],
            r"3 columns .*--target-column: folder_1 \(ant, bee\), folder_2 \(less, more\), folders \(ant, bee/less",
        ),
        (["0.png", "1.png"], [], "no column holds classes: .* a folder of its own"),
        (PETS, ["--max-image-pixels", 100], "24 x 20 = 480 pixels, more than the 100 allowed; .* --max-image-pixels"),
        (PETS, ["--max-image-pixels", 0], "--max-image-pixels must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_trained_on_is_said_and_nothing_is_left(tmp_path, capsys, files, options, message):
    root, run = tree(tmp_path / "pets", *files), tmp_path / "run"
    arguments = ["--model", "resnest14d", "--no-pretrained", "--dataset", root, "--output", run, "--accelerator", "cpu"]
    assert main([str(argument) for argument in (*arguments, *options)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    with pytest.raises(ImageError, match=f"^error: .*{message}"):
        raise ImageError(said.splitlines()[-1])  # above it, the progress of the datasets library
    assert not run.exists()
