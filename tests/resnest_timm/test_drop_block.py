"""DropBlock where the authors have it: three times in each block of the last two stages."""

import pytest
import timm
import torch
from timm.layers import DropBlock2d

import resnest_timm


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("resnest26d", num_classes=5, zero_init_last=False)


def test_it_follows_each_norm_of_the_residual_branch(model):
    keys = list(model.state_dict())
    assert resnest_timm.add_drop_block(model, 0.3) == 12
    assert list(model.state_dict()) == keys
    outputs, inputs = {}, {}
    for name, module in model.named_modules():
        if (
            name.startswith(("layer3", "layer4"))
            and name.endswith((".bn1", ".bn0", ".bn3"))
            and "conv2.bn1" not in name
        ):
            module.register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o.clone()}))
        if isinstance(module, DropBlock2d):
            module.register_forward_hook(lambda m, i, o, name=name: inputs.update({name: (i[0].clone(), o.clone())}))
    model.train()(torch.randn(4, 3, 128, 128))
    norm_of = {"drop_block1": "bn1", "conv2.drop": "conv2.bn0", "drop_block3": "bn3"}
    assert len(inputs) == 12
    for name, (into, out) in inputs.items():
        block = name.removesuffix("drop_block1").removesuffix("conv2.drop").removesuffix("drop_block3")
        torch.testing.assert_close(into, outputs[block + norm_of[name.removeprefix(block)]])
        dropped = out == 0
        assert 0 < dropped.float().mean() < 0.6
        assert (dropped.float().mean((0, 2, 3)) != dropped.float().mean()).any()  # each channel has a mask of its own


def test_without_a_rate_or_in_eval_mode_nothing_is_dropped(model):
    x = torch.randn(2, 3, 64, 64)
    expected = model.eval()(x)
    resnest_timm.add_drop_block(model, 0.3)
    torch.testing.assert_close(model.eval()(x), expected)
    torch.manual_seed(0)
    some = model.train()(x)
    for module in model.modules():
        if isinstance(module, DropBlock2d):
            module.drop_prob = 0.0
    assert not torch.equal(model(x), some)
    assert torch.equal(model(x), model(x))


def test_other_models_are_left_alone():
    assert resnest_timm.add_drop_block(timm.create_model("resnet18"), 0.1) == 0


def test_where_there_is_no_split_attention_it_follows_the_norms_all_the_same():
    model = timm.create_model("resnest14d", num_classes=5, block_args={"radix": 0})
    assert resnest_timm.add_drop_block(model, 0.3) == 6
    called = []
    for name, module in model.named_modules():
        if isinstance(module, DropBlock2d):
            module.register_forward_hook(lambda m, args, out, name=name: called.append(name))
    model.train()(torch.randn(2, 3, 64, 64))
    assert called == [
        f"{layer}.0.{key}" for layer in ("layer3", "layer4") for key in ("drop_block1", "drop_block", "drop_block3")
    ]
