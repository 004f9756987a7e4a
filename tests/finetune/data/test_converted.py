"""Datasets with a loading script are read by the Hub's conversion of them: the real clients against a stand-in."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from tests.hub_standin import HubStandIn

pytestmark = pytest.mark.slow(seconds=40)

CONVERSION = "refs/convert/parquet"
CODE = b"import datasets\n\nclass Pets(datasets.GeneratorBasedBuilder):\n    pass\n"
LOADS = """
import json, logging, sys
from finetune.data import source
from finetune.errors import FinetuneError
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
logging.getLogger("finetune").setLevel(logging.INFO)
for arguments in json.loads(sys.argv[1]):
    try:
        found = source.load(**arguments)
        splits = {name: sum(1 for _ in split) for name, split in found.splits.items()}
        print(json.dumps([found.config, found.revision, splits]))
    except FinetuneError as error:
        print(json.dumps(str(error)))
"""


def shard(count, seed=0):
    rng = np.random.default_rng(seed)
    images = [PILImage.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]
    features = Features(image=Image(), label=ClassLabel(names=["cat", "dog"]))
    buffer = io.BytesIO()
    columns = {"image": images, "label": [n % 2 for n in range(count)]}
    Dataset.from_dict(columns, features=features).to_parquet(buffer)
    return buffer.getvalue()


ONE = {
    "default/train/0000.parquet": shard(12),
    "default/train/0001.parquet": shard(8, 1),
    "default/test/0000.parquet": shard(6, 2),
}
SEVERAL = {
    "fine/train/0000.parquet": shard(10),
    "coarse/partial-train/0000.parquet": shard(9),
    "coarse/validation/0000.parquet": shard(5),
}


def load(hub, home, *calls):
    """What each call of `source.load` gives, and what was said."""
    command = [sys.executable, "-W", "ignore", "-c", LOADS, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hub.environment(home))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_loading_script_is_not_needed(tmp_path):
    with HubStandIn() as hub:
        for name, files in (("one", ONE), ("several", SEVERAL)):
            hub.add_dataset(f"pets/{name}", {f"{name}.py": CODE}, revisions={CONVERSION: files})
        hub.add_dataset("pets/none", {"none.py": CODE})
        one = hub.head("pets/one", kind="dataset", revision=CONVERSION).sha
        several = hub.head("pets/several", kind="dataset", revision=CONVERSION).sha
        found, said = load(
            hub,
            tmp_path,
            {"dataset": "pets/one"},
            {"dataset": "pets/one", "streaming": True},
            {"dataset": "pets/one", "config": "default", "revision": one},
            {"dataset": "pets/several"},
            {"dataset": "pets/several", "config": "fin"},
            {"dataset": "pets/several", "config": "coarse"},
            {"dataset": "pets/none"},
            {"dataset": "pets/one", "revision": hub.head("pets/one", kind="dataset").sha},
        )
    whole = ["default", one, {"train": 20, "test": 6}]
    assert found[0] == found[1] == found[2] == whole
    assert found[3] == "pets/several has 2 configurations (coarse, fine): pick one by --dataset-config"
    assert found[4].startswith("--dataset-config: pets/several has no configuration 'fin'; did you mean fine?")
    assert found[5] == ["coarse", several, {"train": 9, "validation": 5}]
    assert "pets/none needs a loading script" in found[6]
    assert "the Hub has no conversion of it (refs/convert/parquet): look for a copy in parquet" in found[6]
    assert "the Hub's conversion is of the main branch: leave out --revision" in found[7]
    assert f"reading the Hub's conversion (refs/convert/parquet at {one}, configuration default)" in said
    assert "warning: the conversion holds only the first part of train, up to 5 GB of each split" in said
