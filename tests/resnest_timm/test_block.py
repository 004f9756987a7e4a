"""The block: stochastic depth, which stock timm's block gets wrong, and what it refuses."""

import copy
import weakref
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BlurPool2d, DropPath
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg
from torch import Tensor, nn

from resnest_timm import ResNeStBottleneck
from tests.resnest_timm.helpers import (
    SHALLOW,
    assert_same,
    assert_same_run,
    create,
    images,
    is_same,
    materialize,
    randomize,
    run_model,
    stock,
)

BLOCKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "downsample": {"stride": 1, "projects": True},
    "stride": {"stride": 2, "projects": True},
    "stride-avd_first": {"stride": 2, "projects": True, "avd_first": True},
    "radix-1": {"radix": 1},
}


def block(
    block_class: type[nn.Module] = ResNeStBottleneck, stride: int = 1, projects: bool = False, **kwargs: Any
) -> nn.Module:
    """64 channels in and out, in train mode."""
    downsample = downsample_avg(64, 64, 1, stride, norm_layer=nn.BatchNorm2d) if projects else None
    kwargs = {"radix": 2, "avd": True, **kwargs}
    return randomize(block_class(64, 16, stride, downsample, **kwargs).double())


def shortcut(model: nn.Module, x: Tensor) -> Tensor:
    """What the residual branch is added to."""
    return x if model.downsample is None else copy.deepcopy(model.downsample)(x)


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_dropped_branch_leaves_the_shortcut(options: dict[str, Any]) -> None:
    x = images(4, 9, channels=64)
    model = block(drop_path=DropPath(1.0), **options)
    expected = F.relu(shortcut(model, x))
    assert torch.equal(model(x), expected)
    assert not is_same(model.eval()(x), F.relu(shortcut(model, x)), 1e-3)  # in eval mode nothing is dropped


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_kept_branches_are_scaled_image_by_image(options: dict[str, Any]) -> None:
    x = images(16, 9, channels=64)
    model, without = block(drop_path=DropPath(0.5), **options), block(**options)
    torch.manual_seed(0)
    out = model(x)
    without.act3 = nn.Identity()
    base = shortcut(model, x)
    branch = without(x) - base
    dropped, kept = F.relu(base), F.relu(base + 2 * branch)
    assert not is_same(dropped, kept, 1e-2)
    is_dropped = torch.tensor([is_same(out[i], dropped[i]) for i in range(16)])
    assert torch.equal(~is_dropped, torch.tensor([is_same(out[i], kept[i]) for i in range(16)]))
    assert 0 < is_dropped.sum() < 16


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_stock_timm_drops_something_else(options: dict[str, Any]) -> None:
    """Nothing where there is no downsample, otherwise the shortcut's input: the first test above has teeth."""
    x = images(4, 9, channels=64)
    theirs, without = block(ResNestBottleneck, drop_path=DropPath(1.0), **options), block(ResNestBottleneck, **options)
    out = theirs(x)
    assert not is_same(out, F.relu(shortcut(theirs, x)), 1e-3)
    assert is_same(out, without(x)) == (theirs.downsample is None)


def test_drop_path_rate_grows_with_depth_and_acts_in_train_mode_only() -> None:
    model = timm.create_model("resnest26d", drop_path_rate=0.7, num_classes=4)
    blocks = [*model.layer1, *model.layer2, *model.layer3, *model.layer4]
    assert blocks[0].drop_path is None
    assert [round(b.drop_path.drop_prob, 6) for b in blocks[1:]] == [round(0.1 * i, 6) for i in range(1, 8)]
    randomize(model)
    x = images(2, 64, dtype=torch.float32)
    assert torch.equal(model.eval()(x), model(x))
    assert not is_same(model.train()(x), model(x), 1e-3)


def test_zero_init_last_makes_the_block_its_shortcut() -> None:
    model, x = block(), images(2, 5, channels=64)
    model.bn3.bias.data.zero_()
    assert not is_same(model(x), F.relu(x), 1e-3)
    model.zero_init_last()
    assert torch.equal(model(x), F.relu(x))
    ResNeStBottleneck(64, 16, norm_layer=partial(nn.BatchNorm2d, affine=False)).zero_init_last()  # nothing to zero


@pytest.mark.parametrize("avd_first", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_without_avd_the_convolution_has_the_stride(stride: int, avd_first: bool) -> None:
    arguments = {"stride": stride, "projects": True, "avd": False, "avd_first": avd_first}
    ours, theirs = block(**arguments), block(ResNestBottleneck, **arguments)
    assert ours.conv2.conv.stride == (stride, stride)
    x = images(3, 9, channels=64)
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("aa_layer", [BlurPool2d, "blur"])
def test_aa_layer_is_refused(aa_layer: type[nn.Module] | str) -> None:
    """Before timm's trunk sees it, which stops at a name with another error."""
    message = r"aa_layer is not supported by ResNeSt, got .*(BlurPool2d|blur).*Leave aa_layer out"
    with pytest.raises(ValueError, match=message):
        timm.create_model("resnest14d", aa_layer=aa_layer)
    with pytest.raises(ValueError, match=message):
        ResNeStBottleneck(64, 16, aa_layer=aa_layer)


def test_attn_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="attn_layer is not supported by ResNeSt, got 'se': split attention stands"):
        timm.create_model("resnest14d", block_args={"radix": 2, "attn_layer": "se"})


def test_block_reduce_first_is_refused() -> None:
    with pytest.raises(ValueError, match="block_reduce_first must be 1 for ResNeSt, got 2"):
        timm.create_model("resnest14d", block_reduce_first=2)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{"radix": 0}, {"radix": 0, "avd_first": True, "cardinality": 2}, {"is_first": True}, {"radix": -1, "avd": False}],
    ids=str,
)
def test_forms_that_no_variant_has_are_timms_too(options, stride, train):
    """A plain convolution in place of split attention, and pooling in every block."""
    ours = block(stride=stride, projects=True, **options).train(train)
    theirs = block(ResNestBottleneck, stride=stride, projects=True, **options).train(train)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same_run(run_model(ours, x := images(3, 9, channels=64)), run_model(theirs, x))


@pytest.mark.parametrize("options", [{"radix": 0, "avd": True}, {"radix": 2, "avd": True, "is_first": True}], ids=str)
def test_block_args_that_timm_takes(options):
    ours = create("resnest14d", **SHALLOW, block_args=options).eval()
    theirs = materialize(stock("resnest14d", device="meta", **SHALLOW, block_args=options)).eval()
    assert_same(ours(x := images(2, 48)), theirs(x))


def test_modules_are_timms():
    """By name and, but for the two that are ours, by class: hooks and replacements find what they look for."""
    for options in ({"radix": 0}, {"radix": 1}, {"radix": 2}):
        modules = [
            {name: type(module).__name__ for name, module in block(kind, projects=True, **options).named_modules()}
            for kind in (ResNeStBottleneck, ResNestBottleneck)
        ]
        renamed = {"ResNeStBottleneck": "ResNestBottleneck", "SplitAttention": "SplitAttn"}
        assert {name: renamed.get(kind, kind) for name, kind in modules[0].items()} == modules[1]


@pytest.mark.parametrize("name", ["plain", "stride", "radix-1"])
@torch.no_grad()
def test_the_branchs_map_is_let_go_before_the_last_norm_makes_another(name):
    """Else inference takes a map more than timm's block."""
    model, maps, alive = block(**BLOCKS[name]).eval(), [], []
    source = model.avd_last or model.conv2
    source.register_forward_hook(lambda module, args, out: maps.append(weakref.ref(out)))
    model.bn3.register_forward_pre_hook(lambda module, args: alive.append(maps[0]() is not None))
    model(images(2, 8, channels=64))
    assert alive == [False]
