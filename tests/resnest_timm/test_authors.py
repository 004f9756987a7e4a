"""Converted weights against the authors' own code, PyTorch and MXNet, in an environment of its own.

python3.11 -m venv REF
REF/bin/pip install mxnet==1.9.1 numpy==1.23.5 torch
REF/bin/pip install --no-deps resnest==0.0.5
RESNEST_REFERENCE_PYTHON=REF/bin/python pytest tests/resnest_timm/test_authors.py
"""

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

import resnest_timm  # noqa: F401
from resnest_timm.convert.hub_folder import convert_file

AUTHORS = (
    "resnest50",
    "resnest101",
    "resnest200",
    "resnest269",
    "resnest50_fast_1s1x64d",
    "resnest50_fast_2s1x64d",
    "resnest50_fast_4s1x64d",
    "resnest50_fast_1s2x40d",
    "resnest50_fast_2s2x40d",
    "resnest50_fast_4s2x40d",
    "resnest50_fast_1s4x24d",
)
GLUON = ("resnest50", "resnest101", "resnest50_fast_1s1x64d", "resnest50_fast_4s2x40d", "resnest50_fast_1s4x24d")

pytestmark = pytest.mark.slow(seconds=5)


def run_authors(framework: str, folder: Path, names: tuple[str, ...]) -> Path:
    python = os.environ.get("RESNEST_REFERENCE_PYTHON")
    if not python:
        pytest.skip("needs the authors' code: RESNEST_REFERENCE_PYTHON is not set (the module's head says how)")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NETWORK_LOG")}
    module = {"torch": "resnest.torch", "gluon": "resnest.gluon"}[framework]
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, env=environment)
    if found.returncode:
        pytest.skip(f"{python} has no {module}: {found.stderr.strip().splitlines()[-1]}")
    command = [python, str(Path(__file__).with_name("authors.py")), framework, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def from_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("torch")
    yield run_authors("torch", folder, AUTHORS)
    shutil.rmtree(folder)  # 1.8 GB


@pytest.fixture(scope="module")
def from_gluon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gluon")
    yield run_authors("gluon", folder, GLUON)
    shutil.rmtree(folder)


def logits(folder: Path, name: str, x: np.ndarray, **kwargs: int) -> Tensor:
    """Of our model with the converted weights, float64."""
    model = timm.create_model(name, device="meta", **kwargs).to_empty(device="cpu")
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(x))


def difference(actual: Tensor, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape == (2, 1000)
    assert np.abs(expected).max() > 0.1
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    return float(np.abs(actual.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", AUTHORS)
def test_logits_are_those_of_the_authors_pytorch_code(name: str, from_torch: Path, tmp_path: Path) -> None:
    expected = np.load(from_torch / f"{name}.npz")
    convert_file(from_torch / f"{name}.pth", name, tmp_path / "out")
    plain = difference(logits(tmp_path / "out", name, expected["images"]), expected["logits"])
    print(f"{name}: relative difference {plain:.1e}")
    assert plain < 1e-9
    for form, stride in (("dilated", 8), ("dilation_2", 16)):
        if form in expected:
            dilated = logits(tmp_path / "out", name, expected["images"], output_stride=stride)
            print(f"{name} at output stride {stride}: {difference(dilated, expected[form]):.1e}")
            assert difference(dilated, expected[form]) < 1e-9
            assert difference(dilated, expected["logits"]) > 1e-3
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("name", GLUON)
def test_logits_are_those_of_the_authors_gluon_code_in_mxnet(name: str, from_gluon: Path, tmp_path: Path) -> None:
    params, expected = from_gluon / f"{name}.params", np.load(from_gluon / f"{name}.npz")
    done = convert_file(params, name, tmp_path / "out")
    assert done.source.kind == "MXNet parameters"
    actual = difference(logits(tmp_path / "out", name, expected["images"]), expected["logits"])
    print(f"{name}: relative difference {actual:.1e}")
    assert actual < 1e-9

    sha1 = hashlib.sha1(params.read_bytes()).hexdigest()
    packed = tmp_path / f"{name}-{sha1[:8]}.zip"  # as the authors pack them
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(params, f"{name}-{sha1[:8]}.params")
    zipped = convert_file(packed, name, tmp_path / "zipped")
    assert zipped.source.member_sha1 == sha1
    assert zipped.sha256 == done.sha256
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "zipped")
