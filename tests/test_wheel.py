"""What a wheel holds, and that it works where the checkout is not: the release that somebody installs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import resnest_timm
from tests.examples import ROOT
from tests.test_structure import PACKAGES


def tracked(*folders):
    """Files that git knows, or would if they were added, from the root of the checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs a clone: git says which files belong to the packages")
    return sorted(name for name in set(done.stdout.split("\0")) if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as a release is, by way of a source archive, from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "out"]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "out").glob("*.whl")
    return path


def test_a_wheel_holds_every_file_of_the_three_packages_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set(tracked(*PACKAGES))
    assert {"cards/page/template.md", "finetune/settings/recipes/imagenet.yaml", "cards/py.typed"} < expected
    assert names == expected


def test_a_wheel_carries_its_licence_its_readme_and_its_command(wheel):
    archive = zipfile.ZipFile(wheel)
    by_end = {
        name.split(".dist-info/")[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-" in name
    }
    assert "Apache License" in by_end["licenses/LICENSE"]
    assert "finetune = finetune.cli:main" in by_end["entry_points.txt"]
    metadata = by_end["METADATA"]
    assert "License-Expression: Apache-2.0" in metadata
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in metadata
    for extra in ("demo", "downstream", "imagenet", "onnx", "verify", "test"):
        assert f"Provides-Extra: {extra}" in metadata


def test_the_wheel_has_the_packages_version(wheel):
    assert wheel.name == f"resnest_timm-{resnest_timm.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command in an environment of its own that holds the wheel, and sees this one's other packages.

    A path in a .pth file is searched after the environment's own, and the .pth files in it do not count: an editable
    installation of the checkout is not seen. A wheel with a torch of its own would be gigabytes.
    """
    folder = tmp_path_factory.mktemp("installed")
    python = folder / "venv" / "bin" / "python"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "no_network")}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True, env=environment)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def call(program, *words):
        done = subprocess.run(
            [python.with_name(program), *map(str, words)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call, folder


def test_the_environment_holds_the_wheel_and_not_the_checkout(installed):
    call, folder = installed
    code = "import cards, finetune, json; print(json.dumps([cards.__file__, finetune.__file__]))"
    for path in json.loads(call("python", "-c", code)):
        assert Path(path).is_relative_to(folder / "venv")


def test_an_installed_wheel_lists_its_models_and_says_what_it_can_do(installed):
    call, _ = installed
    assert call("python", "-m", "finetune", "--help") == call("finetune", "--help")
    rows = json.loads(call("python", "-m", "resnest_timm", "list", "resnest14d", "--json"))
    assert {row["architecture"] for row in rows} == {"resnest14d"}


@pytest.mark.slow(seconds=30)
def test_an_installed_wheel_finetunes_and_writes_the_card(installed):
    call, folder = installed
    arguments = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", 32, "--epochs", 1]
    arguments += ["--max-samples", 200, "--accelerator", "cpu", "--workers", 0, "--output", folder / "run"]
    call("finetune", *arguments)
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["environment"]["resnest-timm"] == resnest_timm.__version__
    card = folder / "run" / "model" / "README.md"
    card.unlink()
    call("python", "-m", "cards", "build", folder / "run")
    assert card.read_text().startswith("---\n")
