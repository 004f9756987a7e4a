"""What `stock_form` returns builds the same network in a timm that does not know this package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnest_timm import stock_form
from resnest_timm.resnest import VARIANTS
from tests.resnest_timm.helpers import FACTS, NAMES, assert_same, create, images

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS: dict[str, Any] = {"num_classes": 7, "in_chans": 1, "drop_path_rate": 0.1}

STRANGER = """
import json, sys
import timm, torch
from tests.resnest_timm.helpers import images, materialize

torch.set_num_threads(1)
logits = {}
for name, (architecture, arguments) in json.load(sys.stdin).items():
    model = materialize(timm.create_model(architecture, device="meta", **arguments)).eval()
    assert type(model.layer1[0]).__module__ == "timm.models.resnest"
    with torch.no_grad():
        logits[name] = model(images(1, 48, channels=1))
assert not any(name.startswith("resnest_timm") for name in sys.modules)
torch.save(logits, sys.argv[1])
"""


@pytest.mark.slow(seconds=30)
def test_stock_timm_gives_equal_logits_for_equal_weights(tmp_path: Path) -> None:
    """Every variant at its full depth; both sides fill the same state dict alike."""
    forms = {name: stock_form(name, ARGUMENTS) for name in NAMES}
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "logits.pt")]
    done = subprocess.run(command, input=json.dumps(forms), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = torch.load(tmp_path / "logits.pt")
    assert logits.keys() == set(NAMES)
    x = images(1, 48, channels=1)
    for name in NAMES:
        with torch.no_grad():
            assert_same(logits[name], create(name, **ARGUMENTS).eval()(x))
    assert len({tuple(value.flatten().tolist()) for value in logits.values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_architecture_is_the_variants_own_where_timm_has_it(name: str) -> None:
    architecture, arguments = stock_form(name, {"num_classes": 7})
    assert architecture == (name if FACTS[name].in_timm else "resnest50d")
    assert arguments["num_classes"] == 7
    assert (arguments == {"num_classes": 7}) == FACTS[name].in_timm
    assert "block" not in arguments


def test_arguments_of_the_model_win_and_neither_side_is_changed() -> None:
    given = {"layers": [1, 1, 1, 1], "output_stride": 32, "act_layer": "relu"}
    before = json.dumps({name: {**variant, "block": ""} for name, variant in VARIANTS.items()})
    assert stock_form("resnest152", given) == ("resnest50d", {"stem_width": 64, **given})
    assert given == {"layers": [1, 1, 1, 1], "output_stride": 32, "act_layer": "relu"}
    for name in NAMES:
        arguments = stock_form(name, {})[1]
        arguments.get("block_args", {})["radix"] = 7
        arguments.get("layers", []).append(7)
    assert json.dumps({name: {**variant, "block": ""} for name, variant in VARIANTS.items()}) == before


@pytest.mark.parametrize("name", ["resnest50d", "resnest50_fast_2s1x64d"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_networks_are_refused(name: str, output_stride: int) -> None:
    message = f"stock timm cannot reproduce {name} at output stride {output_stride}: .*Use output stride 32"
    with pytest.raises(ValueError, match=message):
        stock_form(name, {"output_stride": output_stride})


@pytest.mark.parametrize("act_layer", ["silu", nn.SiLU])
def test_other_activations_are_refused(act_layer: str | type[nn.Module]) -> None:
    with pytest.raises(
        ValueError, match=r"cannot reproduce resnest50d with act_layer=.*(SiLU|silu).*Use act_layer='relu'"
    ):
        stock_form("resnest50d", {"act_layer": act_layer})
    assert stock_form("resnest50d", {"act_layer": nn.ReLU}) == ("resnest50d", {"act_layer": nn.ReLU})
