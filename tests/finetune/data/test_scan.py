"""Images that do not decode are found, once, and without filling the memory."""

import contextlib
import io
import shutil

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from finetune.data import images
from finetune.data.images import decode
from finetune.data.scan import BadImage, scan


def noise(height=7, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return {"path": None, "bytes": buffer.getvalue()}


def bad_of(*arguments):
    return scan(*arguments).bad


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache that no other test writes to."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "finetune-checked-images"


@pytest.fixture
def damaged(tmp_path):
    """Rows 1, 3, 4, 6 and 8 of nine do not decode, each for another reason."""
    good = encoded(Image.fromarray(noise(40, 40)), "JPEG")["bytes"]
    lost = tmp_path / "lost.png"
    Image.fromarray(noise()).save(lost)
    values = [good, good[: len(good) // 2], good, b"", None, good, b"GIF89a", good, None]
    column = [{"path": None, "bytes": value} for value in values]
    column[4] = None
    column[8] = {"path": str(lost), "bytes": None}
    lost.unlink()
    features = Features(image=ImageFeature(decode=False), other=ImageFeature(decode=False), number=Value("int64"))
    return Dataset.from_dict({"image": column, "other": [column[0]] * 9, "number": range(9)}, features=features)


REASONS = {
    1: "OSError: .*truncated",
    3: "^an empty file$",
    4: "ValueError: no image",
    6: "UnidentifiedImageError",
    8: "FileNotFoundError: .*lost.png",
}


def test_every_bad_image_is_found_with_its_row_and_reason(damaged):
    bad = bad_of(damaged, "image", range(9))
    assert [image.row for image in bad] == list(REASONS)
    for image in bad:
        assert isinstance(image, BadImage)
        assert "\n" not in image.reason
        assert "0x" not in image.reason  # no address: result.json repeats from run to run
        with pytest.raises(ValueError, match=REASONS[image.row]):
            raise ValueError(image.reason)


def test_only_the_rows_asked_for_are_looked_at(damaged):
    assert [image.row for image in bad_of(damaged, "image", [0, 8, 2, 3])] == [3, 8]
    assert bad_of(damaged, "image", []) == []


def test_a_decoding_column_gives_the_same(damaged):
    assert bad_of(damaged.cast_column("image", ImageFeature()), "image", range(9)) == bad_of(damaged, "image", range(9))


def test_the_answer_is_cached(damaged, cache, monkeypatch):
    first = bad_of(damaged, "image", range(9))
    assert len(list(cache.iterdir())) == 1  # and no temporary file
    monkeypatch.setattr(images, "opened", lambda value, limit: pytest.fail("opened again"))
    assert bad_of(damaged, "image", np.arange(9)) == first
    shutil.rmtree(cache)
    monkeypatch.setattr(images, "opened", lambda value, limit: contextlib.nullcontext(Image.new("RGB", (1, 1))))
    assert bad_of(damaged, "image", range(9)) == []


def test_the_cache_tells_datasets_columns_and_rows_apart(damaged, cache):
    bad_of(damaged, "image", range(9))
    assert [image.row for image in bad_of(damaged, "image", range(4))] == [1, 3]
    assert bad_of(damaged, "other", range(9)) == []
    turned = damaged.select(range(8, -1, -1))
    assert [image.row for image in bad_of(turned, "image", range(9))] == [0, 2, 4, 5, 7]
    mended = damaged.map(lambda row: {"image": row["other"]}, features=damaged.features)
    assert bad_of(mended, "image", range(9)) == []
    assert len(list(cache.iterdir())) == 5


def test_a_file_that_changes_in_a_folder_is_looked_at_again(tmp_path):
    folder = tmp_path / "folder"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(noise()).save(folder / name / "0.png")
    whole = (folder / "b" / "0.png").read_bytes()
    (folder / "b" / "0.png").write_bytes(whole[:40])

    def bad():
        opened = datasets.load_dataset(str(folder), split="train")
        return [image.row for image in bad_of(opened, "image", range(2))]

    assert bad() == [1]
    (folder / "b" / "0.png").write_bytes(whole)
    assert bad() == []


def test_remarks_on_readable_files_are_not_printed(damaged, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert bad_of(damaged, "image", [0, 2], 1000)[0].row == 0  # and no DecompressionBombWarning
    assert bad_of(damaged, "image", [0, 2]) == []
    decode(damaged[0]["image"])  # nor here: Pillow's guard has gone up with ours
