"""Folders of images on the Hub are read as those on the disk are: the real client against a stand-in."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as PILImage

from finetune.data.folder.on_hub import is_folder
from tests.hub_standin import HubStandIn


@pytest.mark.parametrize(
    ("paths", "declared", "expected"),
    [
        (["ant/1.png", "bee/1.png", "README.md", ".gitattributes"], False, True),
        (["photos.zip"], False, True),
        (["ant/1.png"], True, False),
        (["data/train-00000-of-00001.parquet", "cover.png"], False, False),
        (["images/1.png", "pets.py"], False, False),
        (["images/1.png", "tools/convert.py"], False, True),
        (["notes.txt"], False, False),
        (["train.tar"], False, False),
    ],
)
def test_what_is_a_folder_of_images(paths, declared, expected):
    assert is_folder(paths, declared) is expected


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


LOADS = """
import json, logging, sys
from finetune.data import source
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
logging.getLogger("finetune").setLevel(logging.INFO)
found = source.load(sys.argv[1])
first = next(iter(found.splits.values()))
names = getattr(first.features["label"], "names", None)
print(json.dumps([found.hub, found.revision, found.license, {n: len(s) for n, s in found.splits.items()}, names]))
"""


def load(hub, home, name, **environment):
    command = [sys.executable, "-W", "ignore", "-c", LOADS, name]
    env = hub.environment(home) | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return (json.loads(done.stdout) if done.returncode == 0 else None), done.stderr


@pytest.mark.slow(seconds=40)
def test_no_file_of_a_folder_on_the_hub_drops_out(tmp_path):
    """`datasets` mixes the images of `Train/` and `Test/`."""
    files = {f"{split}/{name}/{n}.png": picture(n) for split in ("Train", "Test") for name in "ab" for n in range(4)}
    files |= {"extra/notes.txt": b"x", "README.md": b"---\nlicense: mit\n---\n![](figures/1.png)\n"}
    with HubStandIn() as hub:
        hub.add_dataset("someone/pets", files)
        found, said = load(hub, tmp_path / "home", "someone/pets")
        assert found is not None, said
        known, revision, license_name, splits, names = found
        assert (known, len(revision), license_name, names) == (True, 40, "mit", ["a", "b"])
        assert splits == {"train": 8, "test": 8}
        assert "read: 16 images (8 as train, 8 as test); classes in label (2)" in said
        assert "not read: 1 .txt files, no images" in said
        again, said = load(hub, tmp_path / "home", f"someone/pets@{revision}", HF_HUB_OFFLINE="1")
        assert again is not None, said
        assert again[3:] == [splits, names]
        assert "someone/pets@" not in said
        assert "at the cached revision" in said


@pytest.mark.slow(seconds=20)
def test_a_table_of_a_folder_on_the_hub_names_no_file_outside(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(0))
    table = f"file_name,label\na.png,1\nb.png,2\n{secret},1\n"
    with HubStandIn() as hub:
        hub.add_dataset("someone/bad", {"a.png": picture(1), "b.png": picture(2), "metadata.csv": table.encode()})
        found, said = load(hub, tmp_path / "home", "someone/bad")
    assert found is not None, said
    assert found[3] == {"train": 2}
    assert f"not read: 1 rows of metadata.csv without an image ({secret})" in said
