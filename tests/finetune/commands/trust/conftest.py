"""Tiny runs on a dataset with splits of its own, so that seeds share their test images."""

import pytest
from datasets import DatasetDict

from finetune.data.sample import digits

TINY = ["--model", "test_efficientnet", "--no-pretrained", "--image-size", 32, "--batch-size", 16, "--hflip", 0]
TINY += ["--accelerator", "cpu", "--precision", "32", "--workers", 0]


@pytest.fixture(scope="session")
def three_splits(tmp_path_factory):
    """96 training digits, 40 of validation, 60 of test."""
    folder = tmp_path_factory.mktemp("splits") / "digits"
    rows = digits().shuffle(seed=0)
    parts = {"train": range(96), "validation": range(100, 140), "test": range(200, 260)}
    DatasetDict({name: rows.select(part) for name, part in parts.items()}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def runs(three_splits, cli, tmp_path_factory):
    """`one` and `two` differ in their seed, `other` in its rate."""
    root = tmp_path_factory.mktemp("compared")
    for name, words in {"one": ["--seed", 0], "two": ["--seed", 1], "other": ["--lr", 1e-4]}.items():
        settings = ["--lr", 3e-3, *words] if "--lr" not in words else words
        done = cli("finetune", *TINY, "--dataset", three_splits, "--epochs", 3, *settings, "--output", root / name)
        assert done.returncode == 0, done.stderr
    return root
