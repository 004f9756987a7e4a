"""Grey squares whose brightness is to be found out: a number that can be computed from the image."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

TINY = ["--model", "test_efficientnet"]
WORDS = "--no-pretrained --image-size 32 --batch-size 16 --hflip 0 --crop-scale 1 --seed 0"
WORDS = [*WORDS.split(), *"--accelerator cpu --workers 0 --precision 32".split()]
COUNTS = {"train": 96, "validation": 40, "test": 40}


def squares(count, seed):
    """Pictures of 24 x 24 pixels, and how bright they are in per cent."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(20, 80, count)
    pictures = [
        PILImage.fromarray(rng.normal(2.55 * value, 15, (24, 24, 3)).clip(0, 255).astype(np.uint8)) for value in values
    ]
    features = Features({"image": Image(), "brightness": Value("float64")})
    return Dataset.from_dict({"image": pictures, "brightness": values.tolist()}, features=features)


@pytest.fixture(scope="session")
def bright(tmp_path_factory):
    """Three splits in parquet files of several shards. Do not write into it."""
    folder = tmp_path_factory.mktemp("bright")
    for seed, (name, count) in enumerate(COUNTS.items()):
        for number in range(3):
            part = squares(count, seed).shard(3, number, contiguous=True)
            part.to_parquet(folder / f"{name}-{number:05}-of-00003.parquet")
    return folder


@pytest.fixture(scope="session")
def in_memory():
    """The same rows."""
    return DatasetDict({name: squares(count, seed) for seed, (name, count) in enumerate(COUNTS.items())})


@pytest.fixture(scope="session")
def bright_run(cli, bright, tmp_path_factory):
    """A complete run of the command line. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "bright"
    words = [*WORDS, "--model", "resnest14d", "--epochs", 8, "--lr", "2e-3"]
    done = cli("finetune", "--dataset", bright, *words, "--output", folder)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder
