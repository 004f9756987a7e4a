"""What `--precision auto` means: by the CPU, by the network, and by what stands on it."""

import pytest

from finetune.networks import models
from finetune.runs.runfolder import RunFolder
from finetune.settings.config import RunConfig
from finetune.tasks import registry
from finetune.training import hardware
from finetune.training.session import Session


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientnet_lite0", True),
        ("mobilenetv4_conv_small", True),
        ("convnext_atto", False),
        ("resnest14d", False),
    ],
)
def test_which_networks_are_depthwise(name, expected):
    assert models.is_depthwise(name) is expected


def test_a_network_that_cannot_be_built_is_not_judged():
    assert not models.is_depthwise("no_such_model")


@pytest.fixture
def cpu(monkeypatch):
    """An AMD EPYC's: bfloat16 is fast but for depthwise convolutions."""
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda device: device == "cpu")
    monkeypatch.setattr(hardware, "has_amx", lambda: False)


@pytest.mark.parametrize(
    ("model", "task", "given", "expected"),
    [
        ("resnest14d", "image-classification", "auto", "bf16-mixed"),
        ("tf_efficientnet_lite0", "image-classification", "auto", "32-true"),
        ("tf_efficientnet_lite0", "semantic-segmentation", "auto", "bf16-mixed"),
        ("tf_efficientnet_lite0", "object-detection", "auto", "bf16-mixed"),
        ("tf_efficientnet_lite0", "object-detection", "32", "32-true"),
        ("resnest14d", "object-detection", "auto", "bf16-mixed"),
    ],
)
def test_a_decoder_or_a_detector_decides_more_than_its_backbone(cpu, tmp_path, model, task, given, expected):
    config = RunConfig(model=model, dataset="x", accelerator="cpu", devices="1", precision=given).resolved()
    session = Session(config, RunFolder(tmp_path))
    session.settle_precision(config, registry.get(task))
    assert session.precision == session.trainer.precision == expected


def test_where_bfloat16_is_slow_nothing_takes_it(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda device: False)
    config = RunConfig(model="tf_efficientnet_lite0", dataset="x", accelerator="cpu", devices="1").resolved()
    session = Session(config, RunFolder(tmp_path))
    session.settle_precision(config, registry.get("object-detection"))
    assert session.precision == "32-true"
