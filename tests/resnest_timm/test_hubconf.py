"""torch.hub, from a local clone and from its cache, in processes that know nothing else of this project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.hub_standin import HubStandIn
from tests.resnest_timm.helpers import create

ROOT = Path(__file__).parents[2]
NAMES = [
    "resnest101",
    "resnest14",
    "resnest200",
    "resnest26",
    "resnest269",
    "resnest50",
    "resnest50_fast_1s1x64d",
    "resnest50_fast_1s2x40d",
    "resnest50_fast_1s4x24d",
    "resnest50_fast_2s1x64d",
    "resnest50_fast_2s2x40d",
    "resnest50_fast_4s1x64d",
    "resnest50_fast_4s2x40d",
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone needs, where torch.hub keeps the clone of `owner/name` at its branch `main`."""
    folder = tmp_path_factory.mktemp("torch") / "hub" / "owner_name_main"
    shutil.copytree(ROOT / "resnest_timm", folder / "resnest_timm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", folder)
    return folder


def run(code: str, clone: Path, environment: dict[str, str]) -> str:
    environment = {**environment, "TORCH_HOME": str(clone.parents[1])}
    environment["PYTHONPATH"] = str(ROOT / "tests" / "no_network")  # and not the project
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=clone.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_is_listed_documented_and_loaded(clone: Path, tmp_path: Path) -> None:
    code = f"""
import torch
assert torch.hub.list("owner/name:main", trust_repo=True, verbose=False) == {sorted(NAMES)}
assert "Output stride 8" in torch.hub.help("owner/name:main", "resnest50", trust_repo=True)
for name in {NAMES}:
    model = torch.hub.load({str(clone)!r}, name, source="local", device="meta", num_classes=7)
    print(name, model.fc.out_features, type(model.layer1[0]).__module__)
import resnest_timm
assert resnest_timm.__file__.startswith({str(clone)!r})
"""

    expected = [f"{name} 7 resnest_timm.block" for name in NAMES]
    assert run(code, clone, dict(os.environ)).splitlines() == expected


def test_the_authors_dilated_forms(clone: Path) -> None:

    code = f"""
import torch
for arguments in ({{}}, {{"dilation": 2}}, {{"dilation": 4}}, {{"dilated": True, "root": "~/unused"}}):
    model = torch.hub.load({str(clone)!r}, "resnest50", source="local", device="meta", **arguments).eval()
    print(64 // model.forward_features(torch.empty(1, 3, 64, 64, device="meta")).shape[-1])
try:
    torch.hub.load({str(clone)!r}, "resnest50", source="local", dilation=3)
except ValueError as error:
    print(error)
"""
    *strides, error = run(code, clone, dict(os.environ)).splitlines()
    assert strides == ["32", "16", "8", "8"]
    assert error == "dilation must be 1, 2 or 4, got 3; 2 is output stride 16, and 4 is 8"


def test_pretrained_weights_come_from_the_hub(clone: Path, tmp_path: Path) -> None:
    """resnest50, as the original repository's README calls it, with weights that the stand-in serves."""
    state = {name: tensor.contiguous() for name, tensor in create("resnest50").float().state_dict().items()}
    with HubStandIn() as hub:
        hub.add_model("timm/resnest50d.in1k", {"model.safetensors": safetensors.torch.save(state)})
        code = f"""
import torch
model = torch.hub.load({str(clone)!r}, "resnest50", source="local", pretrained=True)
torch.save(model.state_dict()["layer4.2.conv2.fc2.weight"], {str(tmp_path / "weight.pt")!r})
"""
        run(code, clone, hub.environment(tmp_path / "home"))

    loaded = torch.load(tmp_path / "weight.pt")
    assert torch.equal(loaded, state["layer4.2.conv2.fc2.weight"])
