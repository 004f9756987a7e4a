"""What is done to an inference form afterwards: hooks fire, replaced modules and changed weights count."""

import contextlib
import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from resnest_timm import optimize
from tests.resnest_timm.helpers import KINDS, SHALLOW, assert_same, create, images

X = images(2, 64).float()


def pair(name="resnest14d", **kwargs):
    """The copy in float32, and the model."""
    model = create(name, **{**SHALLOW, **kwargs}).float().eval()
    return optimize(model, dtype=torch.float32), model


def test_the_table_of_what_is_gone_is_in_the_documents():
    rows = [line.strip() for line in optimize.__doc__.splitlines() if line.strip().startswith("|")]
    assert len(rows) > 10
    page = Path(__file__).parents[3] / "docs/explanation/speed.md"
    assert "\n".join(rows) in page.read_text(encoding="utf-8")


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_hooks_fire_on_every_module_and_see_what_stays(name):
    """All at once, for a hook decides about the module beside it, too; each sees the model's maps, norms folded."""
    found = []
    for network in pair(name):
        seen, calls = {}, Counter()

        def forward(module, args, out, key, seen=seen, calls=calls):
            calls[key] += 1
            seen[key] = out  # not copied: nobody may write to it

        for key, module in network.named_modules():
            module.register_forward_hook(lambda m, args, out, key=key, hook=forward: hook(m, args, out, key))
            if key:
                module.register_forward_pre_hook(lambda m, args, key=key, calls=calls: calls.update([f"{key} before"]))
        network(X)
        found.append((seen, calls))
    assert found[0][1] == found[1][1]
    inplace = ("bn1", "bn0", "bn3", "conv1.1", "conv1.4", "conv3")  # whose map the next layer writes to, in both
    inplace += ("conv1",)  # the stem's last convolution, too, has its norm folded in
    for key, expected in found[1][0].items():
        if not key.endswith(inplace) and not isinstance(network.get_submodule(key or "fc"), nn.Conv2d):
            assert_same(found[0][0][key], expected, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "key", ["layer1.0.downsample", "layer1.0.downsample.1", "layer1.0.downsample.2", "layer1.0.conv3", "layer1.0.bn3"]
)
def test_one_hook_alone_sees_its_map_after_the_call(key):
    kept = []
    copied, model = pair()
    before = copied(X)
    for network in (copied, model):
        network.get_submodule(key).register_forward_hook(lambda m, args, out: kept.append((out, out.clone())))
    assert_same(copied(X), before, 1e-6)
    model(X)
    if "downsample" in key:
        assert torch.equal(*kept[0])
    if key in ("layer1.0.downsample", "layer1.0.downsample.2"):
        assert_same(kept[0][1], kept[1][1], 1e-4)


SAME_MAPS = {
    "pre": ("conv3", "act3", "downsample", "downsample.1", "drop_path", "conv2", "bn2"),
    "forward": ("bn3", "act3", "downsample", "downsample.2", "drop_path", "conv2", "bn2"),
}
"""Modules of a block whose input or output is the same map in the copy, norms folded."""


@torch.no_grad()
@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in SAME_MAPS.items() for key in keys])
def test_what_a_hook_returns_counts(key, kind):
    found = []
    for network in pair(drop_path_rate=0.5):
        module = network.layer2[0].get_submodule(key)
        if kind == "pre":
            module.register_forward_pre_hook(lambda m, args: (-args[0],))
        else:
            module.register_forward_hook(lambda m, args, out: -out)
        found.append(network(X))
    assert_same(*found, 1e-4)


def replacements():
    def activation(block):
        block.act3 = nn.GELU()

    def activation_inside(block):
        block.act1, block.conv2.act0 = nn.SiLU(), nn.Hardtanh()

    def shortcut(block):
        block.downsample = nn.Sequential(block.downsample, nn.Hardtanh()) if block.downsample else nn.Tanh()

    def norm(block):
        block.bn3 = nn.Tanh()

    def dropped(block):
        block.drop_path = nn.Tanh()

    return [activation, activation_inside, shortcut, dropped, norm]


@torch.no_grad()
@pytest.mark.parametrize("replace", replacements()[:-1], ids=lambda replace: replace.__name__)
def test_replaced_modules_count(replace):
    found = []
    copied, model = pair()
    before = copied(X)
    for network in (copied, model):
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            replace(layer[-1])
        found.append(network(X))
    assert_same(*found, 1e-4)
    assert not torch.allclose(found[0], before)


@torch.no_grad()
def test_a_module_put_where_the_last_norm_was_counts():
    copied, _ = pair()
    before = copied(X)
    replacements()[-1](copied.layer4[0])
    assert not torch.allclose(copied(X), before)


@torch.no_grad()
def test_idle_regularisers_stay_idle():
    assert isinstance(pair(drop_path_rate=0.5)[0].layer4[0].drop_path, DropPath)
    copied, model = pair(drop_path_rate=0.5, drop_block_rate=0.5)
    assert_same(copied(X), model(X), 1e-4)


@pytest.mark.parametrize("made", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("changed", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("through", [lambda network: network, copy.deepcopy], ids=["itself", "copied"])
def test_weights_changed_in_place_count(made, changed, through):
    """Wherever they were made, by whatever mode; a copy made afterwards has packed nothing yet."""
    with made():
        model = copy.deepcopy(create("resnest14d", **SHALLOW).float().eval())  # inference tensors, in that mode
        copied = through(optimize(model, dtype=torch.float32))
        before = copied(X)
    with changed():
        inference = any(p.is_inference() for p in copied.parameters())
        with contextlib.nullcontext() if changed is torch.inference_mode or not inference else torch.inference_mode():
            for parameter in copied.parameters():
                parameter.mul_(1.1)
            assert torch.equal(copied(X), copy.deepcopy(copied)(X))
            assert not torch.allclose(copied(X), before)


@torch.no_grad()
def test_the_shortcut_of_an_identity_is_not_written_to():
    """A module that hands on what somebody else holds."""
    copied, model = pair()
    for network in (copied, model):
        network.layer1[0].downsample = nn.Sequential(nn.Identity())
        network.layer1[0].conv3 = nn.Conv2d(network.layer1[0].conv3.in_channels, 64, 1)
        network.layer1[0].bn3 = nn.Identity()
    for network in (copied, model):
        x = images(2, 16, channels=64).float().contiguous(memory_format=torch.channels_last)
        before = x.clone()
        network.layer1[0](x)
        assert torch.equal(x, before)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_tracers_go_through_the_copy():
    copied, model = pair()
    expected = model(X)
    assert_same(torch.fx.symbolic_trace(copied)(X), expected, 1e-4)
    assert_same(torch.jit.trace(copied, X)(X), expected, 1e-4)
    assert_same(torch.func.vmap(lambda x: copied(x[None])[0])(X), expected, 1e-4)
    assert F.cosine_similarity(copied(X), expected).min() > 0.999
