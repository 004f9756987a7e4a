"""A backbone and a decoder as one network: weights that arrive, forms that strangers have, windows."""

import itertools

import pytest
import timm
import torch

from finetune.errors import ConfigError, ModelError
from finetune.settings import of_tasks
from finetune.settings.config import RunConfig
from finetune.tasks.segmentation import network as networks
from finetune.tasks.segmentation.module import SegmentationTask
from finetune.training.callbacks import batch_norm
from finetune.training.optim import make_optimizer
from resnest_timm.resnest import VARIANTS


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("decoder", networks.DECODERS)
def test_each_decoder_gives_logits_of_the_image_s_size(decoder):
    stride = 16 if decoder in networks.DILATED else 32
    made = networks.build("resnest14d", 3, False, decoder, stride).eval()
    with torch.inference_mode():
        assert made(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64, 96)
    assert made.stride == stride


@pytest.mark.parametrize("name", ["resnest14d", "resnest50_fast_1s1x64d", "convnext_atto"])
def test_all_weights_of_the_backbone_arrive(name, tmp_path):
    """From a folder, as stock timm and ours write them."""
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=5).eval()
    timm.models.save_for_hf(whole, tmp_path, safe_serialization=True)
    made = networks.build(f"local-dir:{tmp_path}", 3).eval()
    expected = whole.forward_intermediates(torch.ones(1, 3, 64, 64), intermediates_only=True)
    found = made.network.encoder(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-4)


def test_a_stranger_s_form_at_stride_32_and_a_name_it_does_not_know_below():
    whole = networks.build("resnest50", 2, False)
    assert whole.arguments["encoder_name"] == "tu-resnest50d"
    assert whole.needs is None
    fast = networks.build("resnest50_fast_2s1x64d", 2, False)
    assert fast.arguments["block_args"] == {"radix": 2, "avd": True, "avd_first": True}
    dilated = networks.build("resnest14d", 2, False, "deeplabv3plus", 16)
    assert dilated.arguments["encoder_name"] == "tu-resnest14"
    assert dilated.needs == "resnest_timm"
    assert "resnest14" not in VARIANTS


def test_a_model_without_such_maps_is_refused():
    with pytest.raises(ModelError, match=r"vit_tiny_patch16_224 is no backbone for --decoder fpn: .* expected a model"):
        networks.build("vit_tiny_patch16_224", 2, False)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'resnest-timm\[segmentation\]'"):
        networks.library()


@pytest.mark.parametrize(("length", "side"), [(64, 64), (32, 64), (96, 64), (224, 64), (512, 160), (256, 96)])
def test_windows_cover_and_overlap(length, side):
    found = networks.windows(length, side)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(start % 32 == 0 and stop - start == min(side, length) for start, stop in found)
    assert all(second[0] - first[0] <= max(side // 2, 32) for first, second in itertools.pairwise(found))


def test_tiles_are_averaged_where_they_overlap():
    class Ones(torch.nn.Module):
        def forward(self, pixels):
            return pixels[:, :2] * 2

    made = networks.SegmentationNetwork(Ones(), {"classes": 2, "encoder_name": "tu-x"}, {}, tile=64)
    pixels = torch.randn(3, 160, 96)
    torch.testing.assert_close(made.whole(pixels), pixels[:2] * 2)


def test_the_backbone_has_a_tenth_of_the_rate_and_holds_its_statistics():
    made = networks.build("resnest14d", 2, False, "unet")
    task = SegmentationTask(made, 2, lr=1.0, backbone_lr=0.1)
    optimizer = make_optimizer(made, "sgd", 1.0, 0.05, None, task.rate_scales())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in made.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if name.startswith("network.encoder.") else 1.0), name
        assert decays[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name
    task.train()
    batch_norm.hold(task)
    norms = {n: m.training for n, m in made.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert set(norms.values()) == {True, False}
    assert all(training != name.startswith("network.encoder.") for name, training in norms.items())


def test_flags_that_do_not_go_together():
    config = RunConfig(model="resnest14d", dataset="x", decoder="fpn", output_stride=16, tile=50)
    assert of_tasks.problems(config) == [
        "--output-stride 16 is for --decoder deeplabv3plus or deeplabv3, got fpn",
        "--tile must be a multiple of 32 and at least 64, got 50",
    ]
    with pytest.raises(ConfigError, match="--decoder deeplabv3 is for --output-stride 16 or 8, got 32"):
        RunConfig(model="resnest14d", dataset="x", decoder="deeplabv3", output_stride=32).resolved()
