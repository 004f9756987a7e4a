"""Shared by the tests of this folder."""

import pytest

from tests.finetune.imagenet.originals import Originals


@pytest.fixture(scope="session")
def originals():
    """The contents of the tars of the fixture `tars`. Do not change them."""
    return Originals()


@pytest.fixture(scope="session")
def tars(originals, tmp_path_factory):
    """A folder of ImageNet's three tars. Do not write into it."""
    return originals.write(tmp_path_factory.mktemp("imagenet") / "tars")


@pytest.fixture(scope="session")
def prepared(cli, tars, tmp_path_factory):
    """What the command line makes of them, and what it says. Do not write into it."""
    folder = tmp_path_factory.mktemp("imagenet") / "prepared"
    done = cli(
        "finetune", "prepare-imagenet", "--tars", tars, "--output", folder, "--no-verify", "--shard-size", 0.02,
        "--processes", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done
