"""timm's registry after the import: every name, every tag, and where the weights are; typed here from the releases."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import timm
from timm.models import get_pretrained_cfg

import resnest_timm
from resnest_timm import ResNeStBottleneck
from tests.resnest_timm.helpers import FACTS, NAMES

ALIASES = {
    "resnest14": "resnest14d",
    "resnest26": "resnest26d",
    "resnest50": "resnest50d",
    "resnest101": "resnest101e",
    "resnest200": "resnest200e",
    "resnest269": "resnest269e",
    "resnest50_fast_4s2x40d": "resnest50d_4s2x40d",
    "resnest50_fast_1s4x24d": "resnest50d_1s4x24d",
}
ALL = sorted([*NAMES, *ALIASES])
RELEASES = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/"


@dataclass(frozen=True)
class Released:
    """Where a variant's weights are, and the evaluation for which their accuracy was measured."""

    tag: str
    hub_id: str | None
    url: str | None
    size: int
    crop_pct: float
    interpolation: str


RELEASED = {
    "resnest14d": Released("gluon_in1k", "timm/resnest14d.gluon_in1k", None, 224, 0.875, "bilinear"),
    "resnest26d": Released("gluon_in1k", "timm/resnest26d.gluon_in1k", None, 224, 0.875, "bilinear"),
    "resnest50d": Released("in1k", "timm/resnest50d.in1k", None, 224, 0.875, "bilinear"),
    "resnest101e": Released("in1k", "timm/resnest101e.in1k", None, 256, 0.875, "bilinear"),
    "resnest200e": Released("in1k", "timm/resnest200e.in1k", None, 320, 0.909, "bicubic"),
    "resnest269e": Released("in1k", "timm/resnest269e.in1k", None, 416, 0.928, "bicubic"),
    "resnest50d_4s2x40d": Released("in1k", "timm/resnest50d_4s2x40d.in1k", None, 224, 0.875, "bicubic"),
    "resnest50d_1s4x24d": Released("in1k", "timm/resnest50d_1s4x24d.in1k", None, 224, 0.875, "bicubic"),
    **{
        name: Released("in1k", None, f"{RELEASES}{name}-{sha256}.pth", 224, 0.875, "bicubic")
        for name, sha256 in {
            "resnest50_fast_1s1x64d": "d8fbf808",
            "resnest50_fast_2s1x64d": "44938639",
            "resnest50_fast_4s1x64d": "f74f3fc3",
            "resnest50_fast_1s2x40d": "32830b84",
            "resnest50_fast_2s2x40d": "9d126481",
        }.items()
    },
}


def test_every_variant_is_registered_by_both_names() -> None:
    assert len(ALL) == 23
    assert sorted(timm.list_models("resnest*")) == ALL
    assert sorted(timm.list_models(module="resnest")) == ALL
    assert all(timm.is_model(name) for name in ALL)


def test_exactly_the_released_weights_are_listed() -> None:
    tagged = {f"{name}.{released.tag}" for name, released in RELEASED.items()}
    tagged |= {f"{alias}.{RELEASED[name].tag}" for alias, name in ALIASES.items()}
    assert len(tagged) == 21
    assert set(timm.list_models("resnest*", pretrained=True)) == tagged
    assert set(timm.list_pretrained("resnest*")) == tagged
    assert "resnest101.in1k" in tagged
    assert not any(timm.models.is_model_pretrained(name) for name in ("resnest152", "resnest101_fast"))


@pytest.mark.parametrize("name", ALL)
def test_pretrained_config(name: str) -> None:
    config = get_pretrained_cfg(name)
    assert config.num_classes == 1000
    assert config.classifier == "fc"
    assert config.first_conv == "conv1.0"
    assert config.license == "apache-2.0"
    assert config.mean == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)
    released = RELEASED.get(ALIASES.get(name, name))
    if released is None:
        assert not config.has_weights
        assert config.input_size == (3, 224, 224)
        return
    assert config.has_weights
    assert (config.tag, config.hf_hub_id, config.url) == (released.tag, released.hub_id, released.url)
    assert (config.input_size, config.crop_pct) == ((3, released.size, released.size), released.crop_pct)
    assert config.interpolation == released.interpolation
    assert config.pool_size == (released.size // 32, released.size // 32)
    assert config == get_pretrained_cfg(f"{name}.{released.tag}")


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts.in_timm])
def test_pretrained_config_agrees_with_stock_timm(name: str) -> None:
    stock, ours = timm.models.resnest.default_cfgs[name].default, get_pretrained_cfg(name)
    for field in ("num_classes", "input_size", "pool_size", "crop_pct", "interpolation", "mean", "std", "first_conv"):
        assert getattr(ours, field) == getattr(stock, field), field
    assert ours.hf_hub_id == f"{stock.hf_hub_id}{name}.{ours.tag}"
    assert timm.models.resnest.default_cfgs[name].tags[0] == ours.tag


@pytest.mark.parametrize("name", ALL)
def test_created_model_carries_the_variants_name(name: str) -> None:
    architecture = ALIASES.get(name, name)
    for create in (lambda: timm.create_model(name, device="meta"), lambda: getattr(resnest_timm, name)(device="meta")):
        model = create()
        assert model.pretrained_cfg["architecture"] == architecture
        assert isinstance(model.layer1[0], ResNeStBottleneck)
        depths = [len(stage) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
        assert tuple(depths) == FACTS[architecture].layers
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(
            FACTS[architecture].params, abs=5e-4
        )
        assert (model.layer2[0].avd_first is not None) == FACTS[architecture].avd_first


@pytest.mark.parametrize("name", ["resnest101.in1k", "resnest26.gluon_in1k", "resnest50_fast_2s1x64d.in1k"])
def test_tags_are_understood(name: str) -> None:
    model = timm.create_model(name, device="meta", num_classes=3)
    assert model.pretrained_cfg["tag"] == name.split(".")[1]
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model(f"{name.split('.')[0]}.no_such_tag", device="meta")


def test_public_functions_are_documented_and_complete() -> None:
    assert {name for name in resnest_timm.__all__ if name.startswith("resnest")} == set(ALL)
    assert all(getattr(resnest_timm, name).__name__ == name for name in ALL)
    assert resnest_timm.resnest101.__doc__.startswith("resnest101. The same model as `resnest101e`.")
    assert "same model" not in resnest_timm.resnest101e.__doc__


def test_stock_timms_own_functions_stay_as_they_were() -> None:
    model = timm.models.resnest.resnest14d(device="meta")
    assert type(model.layer1[0]) is timm.models.resnest.ResNestBottleneck


def test_import_is_quiet_and_may_be_repeated() -> None:
    code = """
import resnest_timm
import importlib, timm
for _ in range(2):
    assert len(timm.list_models("resnest*")) == 23
    importlib.reload(resnest_timm.resnest)
    importlib.reload(resnest_timm)
    assert timm.model_entrypoint("resnest50d") is resnest_timm.resnest50d
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
