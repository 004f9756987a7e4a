"""A dataset of a stranger makes us read nothing but its own files, fetch nothing, and start nothing."""

import io
import os
import socket
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from huggingface_hub import constants
from PIL import Image

from finetune.commands import predict_rows
from finetune.data import images, outside, source
from finetune.data.images import ImageError, decode
from finetune.data.scan import scan
from finetune.errors import DatasetError
from finetune.loading import jpeg
from finetune.serving.inputs import loader

PNG = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(PNG, "PNG")
PNG = PNG.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv(outside.VARIABLE, raising=False)
    outside._real.cache_clear()


@pytest.fixture
def place(tmp_path):
    """A dataset's folder, and a picture beside it that is nobody's business."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "own.png").write_bytes(PNG)
    (tmp_path / "private.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "up").symlink_to(tmp_path)
    return folder


def parquet(folder, paths):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = pa.array([path and {"bytes": None, "path": str(path)} for path in paths], kind)
    pq.write_table(pa.table({"image": values, "label": pa.array(["a"] * len(paths))}), folder / "data.parquet")
    return folder / "data.parquet"


def read_rows(file):
    """What stands in each row after the dataset was opened: a picture, or why there is none."""
    opened = outside.of_source(source.load(str(file)), "image")
    encoded = opened.splits["train"].cast_column("image", ImageFeature(decode=False))
    found = []
    for row in range(len(encoded)):
        try:
            found.append(decode(encoded[row]["image"]).size)
        except (OSError, ValueError) as error:
            found.append(images.reason(error))
    return found


def test_rows_name_files_in_the_datasets_own_folder_alone(place, tmp_path):
    paths = [place / "own.png", "own.png", None, tmp_path / "private.png", "../private.png", place / "../private.png"]
    paths += [place / "link.png", "up/private.png", "/etc/passwd", "/dev/zero"]
    found = read_rows(parquet(place, paths))
    assert found[:2] == [(8, 8), (8, 8)]
    assert found[2] == "ValueError: no image"
    assert len(found[3:]) == 7
    assert all("lies outside of the dataset's folder, and is not read" in text for text in found[3:])
    assert not any("root:" in text for text in found[3:])


def test_a_folder_can_be_allowed(place, tmp_path, monkeypatch):
    monkeypatch.setenv(outside.VARIABLE, f"{tmp_path / 'none'}{os.pathsep}{tmp_path}")
    assert read_rows(parquet(place, [tmp_path / "private.png"])) == [(8, 8)]


def test_the_scan_and_the_training_refuse_what_predict_refuses(place, tmp_path):
    file = parquet(place, [place / "own.png", tmp_path / "private.png"])
    opened = outside.of_source(source.load(str(file)), "image")
    bad = scan(opened.splits["train"], "image", range(2)).bad
    assert [(one.row, one.path) for one in bad] == [(1, str(tmp_path / "private.png"))]
    value = opened.splits["train"].cast_column("image", ImageFeature(decode=False))[1]["image"]
    with pytest.raises(ImageError, match="lies outside"):
        jpeg.open_jpeg(value)
    inputs = predict_rows.from_dataset(str(file))
    (batch,) = loader(inputs, lambda image: __import__("torch").zeros(3, 1, 1), 4, 0)
    assert batch.rows == [0]
    assert [row for row, _ in batch.problems] == [1]


def test_paths_in_a_column_of_text_are_looked_at_too(place, tmp_path):
    split = Dataset.from_dict({"file": [str(place / "own.png"), str(tmp_path / "private.png"), None]})
    found = outside.guarded(DatasetDict(train=split), "file", outside.roots_of_folder(place))["train"]
    assert found["file"][:] == [str(place / "own.png"), f"{outside.MARK}{tmp_path / 'private.png'}", None]
    assert found._fingerprint != split._fingerprint


def test_a_dataset_in_memory_is_the_users_own(place, tmp_path):
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "private.png")}]}
    split = Dataset.from_dict(rows, features=Features(image=ImageFeature()))
    opened = outside.of_source(source.load(split), "image")
    assert opened.splits["train"] is split


def test_rows_with_their_bytes_are_as_they_were(place):
    """Of a path at which there is a file, `datasets` drops the bytes when it makes the row."""
    rows = {"image": [{"bytes": PNG, "path": "../x.png"}, {"bytes": PNG, "path": "/x/none.png"}]}
    split = Dataset.from_dict(rows, features=Features(image=ImageFeature()))
    splits = outside.guarded(DatasetDict(train=split), "image", outside.roots_of_folder(place))
    assert splits["train"] is split


def test_a_stream_names_no_files_at_all():
    assert outside.of_stream({"bytes": None, "path": "/etc/passwd"})["path"] == "outside:/etc/passwd"
    assert outside.of_stream("/etc/passwd")["path"] == "outside:/etc/passwd"
    for value in ({"bytes": PNG, "path": "/x"}, {"bytes": None, "path": "hf://x"}, None):
        assert outside.of_stream(value) == value


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://host.example/x.png",
        "HTTPS://host.example/x.png",
        "ftp://host.example/x.png",
        "zip://a.png::http://host.example/x.zip",
        "zip://a.png::hf://datasets/o/n/x.zip",
        "file:///etc/passwd",
        "s3://bucket/x.png",
        "{endpoint}.evil.example/x.png",
        "{endpoint}@evil.example/x.png",
        "{endpoint}:1/x.png",
    ],
)
def test_no_address_is_followed(address):
    with pytest.raises(ImageError, match="address"):
        decode({"bytes": None, "path": address.format(endpoint=constants.ENDPOINT)})


@pytest.mark.parametrize("address", ["hf://datasets/owner/name/x.png", f"{constants.ENDPOINT}/datasets/o/n/x.png"])
def test_offline_is_offline(address):
    with pytest.raises(ImageError, match="a file on the Hub, which is not asked: HF_HUB_OFFLINE is set"):
        decode({"bytes": None, "path": address})


def test_a_file_of_the_hub_is_read_by_its_own_reader(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(images, "_fetched", lambda path: PNG)
    assert decode({"bytes": None, "path": f"{constants.ENDPOINT}/datasets/o/n/x.png"}).size == (8, 8)


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n# A set\n"


@pytest.mark.parametrize(
    "named",
    [
        "http://host.example/x.parquet",
        "[a.parquet, 'zip://x::http://h.example/y']",
        "/etc/*",
        "../*",
        "hf://datasets/x",
    ],
)
def test_a_card_that_names_other_places_is_refused(tmp_path, named):
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "README.md").write_text(CARD.format(named))
    with pytest.raises(DatasetError, match=r"README.md names '.*' as data: only files in the folder are read"):
        source.load(str(tmp_path))


def test_a_card_that_names_its_own_files_is_read(place):
    parquet(place, [place / "own.png"])
    (place / "README.md").write_text(CARD.format("data.parquet") + "\nSee https://host.example\n")
    assert list(source.load(str(place)).splits) == ["train"]
    (place / "README.md").write_text("---\nlicense: mit\nhomepage: https://host.example\n---\n")
    outside.check_card(place)


# --- what is no file, and no image -----------------------------------------------------------------------------------


def test_pipes_devices_sockets_and_loops_are_counted_and_never_opened(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "good.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "b" / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path / "b")  # a socket's name is short
        listener.bind("socket.jpg")
        os.chdir(here)
        split = source.load(str(tmp_path)).splits["train"]
        bad = {Path(one.path).name: one.reason for one in scan(split, "image", range(len(split))).bad}
    assert bad == {
        "pipe.jpg": "a pipe, no regular file: it is not opened",
        "loop.jpg": "a link that leads back to itself",
        "device.jpg": "a device, no regular file: it is not opened",
        "socket.jpg": "a socket, no regular file: it is not opened",
    }


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"\xc5\xd0\xd3\xc6"]
)
def test_no_decoder_starts_a_program(tmp_path, monkeypatch, head):
    def start(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", start)
    (tmp_path / "x.jpg").write_bytes(head + b"\0" * 600)
    for value in (str(tmp_path / "x.jpg"), {"bytes": head + b"\0" * 600, "path": None}):
        with pytest.raises(ImageError, match=r"a PostScript drawing \(EPS\), which a program would have to draw"):
            decode(value)
    assert "EPS" not in images.formats()
    assert {"JPEG", "PNG", "WEBP", "TIFF"} <= set(images.formats())


@pytest.mark.parametrize(
    "content",
    [
        b"root:secret:0:0:/root:/bin/sh\n" * 9,
        b"P6 root:secret root:secret 255\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\rroot:secret" * 9,
        b"P5\nroot:secretroot:secretroot:secret 8 8\n",
    ],
)
def test_bytes_of_a_file_that_is_no_image_are_not_quoted(content):
    with pytest.raises((OSError, ValueError, SyntaxError)) as raised:
        decode({"bytes": content, "path": None})
    assert "secret" not in images.reason(raised.value)


# --- the scan's cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def split():
    rows = {"image": [{"bytes": PNG, "path": None}, {"bytes": b"no image at all", "path": None}]}
    return Dataset.from_dict(rows, features=Features(image=ImageFeature()))


def test_a_cache_that_cannot_be_written_is_one_warning(split, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level("WARNING", logger="finetune"):
        assert [one.row for one in scan(split, "image", range(2)).bad] == [1]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("warning: cannot remember which images decode (")
    assert "unless HF_DATASETS_CACHE names a folder that can be written" in caplog.messages[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bad": 3}', '{"bad": [{"x": 1}], "animated": 0}', "\0"])
def test_a_damaged_cache_is_made_anew(split, content):
    found = scan(split, "image", range(2))
    (file,) = (Path(datasets.config.HF_DATASETS_CACHE) / "finetune-checked-images").iterdir()
    whole = file.read_text()
    file.write_text(content)
    assert scan(split, "image", range(2)) == found
    assert file.read_text() == whole
