"""Preferences of the splits, against the weights that stock timm's own attention computes."""

import pytest
import timm
import torch
from torch import nn

from resnest_timm import SplitAttention, optimize, record_splits, split_preferences
from tests.resnest_timm.helpers import FACTS, SHALLOW, create, images, stock

VARIANTS = ["resnest14d", "resnest50_fast_1s1x64d", "resnest50d_4s2x40d"]  # radix 2, 1, 4; cardinality 2


def stock_weights(name, model, x):
    """Per stage: means of what stock timm's `RadixSoftmax` returns, `[B, radix * C]` by split first."""
    theirs = stock(name, **SHALLOW).double().eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    seen = {}

    def keep(name):
        return lambda module, inputs, out: seen.setdefault(name.split(".")[0], []).append(out.flatten(1))

    for path, module in theirs.named_modules():
        if path.endswith("rsoftmax"):
            module.register_forward_hook(keep(path))
    with torch.no_grad():
        theirs(x)
    radix = FACTS[name].radix
    chunks = [[torch.stack([c.mean(1) for c in w.chunk(radix, 1)], 1) for w in blocks] for blocks in seen.values()]
    return torch.stack([sum(blocks) / len(blocks) for blocks in chunks], dim=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_preferences_are_stock_timms_weights(name):
    model = create(name, **SHALLOW).eval()
    x = images(3, 64)
    found = split_preferences(model, x)
    radix = FACTS[name].radix
    assert found.shape == (3, 4, radix)
    assert found.dtype == torch.float32
    expected = stock_weights(name, model, x).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # Not the same for all images and stages: the comparison above compares something.
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
    if radix > 1:
        torch.testing.assert_close(found.sum(2), torch.ones(3, 4))


def test_a_model_is_as_before_and_records_the_last_call():
    model = create("resnest14d", **SHALLOW).eval()
    x = images(2, 64)
    with torch.inference_mode():
        expected = model(x)
        with record_splits(model) as record:
            model(x)
            recorded = model(x[:1])
        assert torch.equal(model(x), expected)
        torch.testing.assert_close(recorded, expected[:1])
    assert list(record.stages) == ["layer1", "layer2", "layer3", "layer4"]
    assert [len(blocks) for blocks in record.stages.values()] == SHALLOW["layers"]
    torch.testing.assert_close(record.preferences(), split_preferences(model, x)[:1])
    assert not any(module._forward_hooks for module in model.modules())


def test_the_inference_form_prefers_the_same():
    model = create("resnest14d", **SHALLOW).float().eval()
    x = images(2, 64, dtype=torch.float32)
    fast = optimize(model, dtype=torch.float32, input_size=(3, 64, 64))
    torch.testing.assert_close(split_preferences(fast, x), split_preferences(model, x), rtol=1e-4, atol=1e-5)


def test_what_has_no_preferences():
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"expected a ResNeSt, got ResNet, in which there is no SplitAttention"):
        split_preferences(timm.create_model("resnet10t").eval(), x)
    with pytest.raises(ValueError, match=r"eval mode, got one in train mode: call \.eval\(\)"):
        split_preferences(nn.Sequential(SplitAttention(4)), x)
    both = nn.Sequential(SplitAttention(4, radix=1), SplitAttention(4, radix=2)).eval()
    with pytest.raises(ValueError, match="the same radix in all blocks, got 1, 2"):
        split_preferences(both, x)
    with (
        record_splits(nn.Sequential(SplitAttention(4)).eval()) as record,
        pytest.raises(ValueError, match="call it before"),
    ):
        record.preferences()
