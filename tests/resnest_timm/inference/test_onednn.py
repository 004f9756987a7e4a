"""The inference form's convolutions: oneDNN's calls where they may run, PyTorch's own everywhere else."""

import contextlib
import copy
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from resnest_timm import optimize
from resnest_timm.inference import onednn
from resnest_timm.inference.onednn import PackedConv2d, has_packed_convolutions
from tests.resnest_timm.helpers import KINDS, SHALLOW, assert_same, create, images

ONEDNN = ("mkldnn::_convolution_pointwise", "mkldnn::_convolution_pointwise_")

needs_onednn = pytest.mark.skipif(
    not has_packed_convolutions(torch.float32), reason="this PyTorch has no packed convolutions"
)


@pytest.fixture(autouse=True)
def _forget():
    """What was tried once in this process, before and after tests that change it."""
    has_packed_convolutions.cache_clear()
    yield
    has_packed_convolutions.cache_clear()


def built(name="resnest14d", **kwargs):
    return create(name, **{**SHALLOW, **kwargs}).float().eval()


def operations(function, *args):
    """How often each operation was called."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        function(*args)
    return Counter({event.key: event.count for event in profiler.key_averages()})


def onednn_calls(function, *args):
    called = operations(function, *args)
    return sum(called[name] for name in ONEDNN)


@needs_onednn
@pytest.mark.parametrize("name", KINDS)
def test_every_convolution_runs_in_onednn_and_one_adds_the_shortcut(name):
    model, x = built(name), images(2, 64).float()
    optimized = optimize(model, dtype=torch.float32)
    optimized(x)
    called = operations(optimized, x)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    blocks = sum(SHALLOW["layers"])
    assert sum(called[name] for name in ONEDNN) == convolutions
    assert called["mkldnn::_convolution_pointwise_"] == blocks
    assert not {"aten::conv2d", "aten::add_"} & called.keys()
    with torch.no_grad():
        assert_same(optimized(x), model(x), 1e-4)


@needs_onednn
def test_weights_are_packed_once_for_each_shape_of_images():
    optimized, x = optimize(built(), dtype=torch.float32), images(3, 64).float()
    assert has_packed_convolutions(torch.float32)  # packs, too, the first time
    convolutions = sum(isinstance(module, PackedConv2d) for module in optimized.modules())

    def packs(x):
        return operations(optimized, x)["mkldnn::_reorder_convolution_weight"]

    assert [packs(x), packs(x), packs(x[:2]), packs(x[:2])] == [convolutions, 0, convolutions, 0]
    alone = torch.cat([optimized(image[None]) for image in x])
    assert_same(alone, optimized(x), 1e-5)


@needs_onednn
@pytest.mark.parametrize("change", ["in place", "new parameter", "state dict", "dtype"])
def test_changed_weights_count(change):
    optimized, x = optimize(built(), dtype=torch.float32), images(2, 64).float()
    other = optimize(built("resnest26d"), dtype=torch.float32)
    convolution, before = optimized.layer4[0].conv3, optimized(x)
    if change == "in place":
        with torch.no_grad():
            convolution.weight.mul_(2)
    elif change == "new parameter":
        convolution.weight = nn.Parameter(convolution.weight * 2, requires_grad=False)
    elif change == "state dict":
        state = {
            name: tensor * 2 if name == "layer4.0.conv3.weight" else tensor
            for name, tensor in other.state_dict().items()
        }
        optimized.load_state_dict(state)
    else:
        optimized.to(torch.bfloat16)
    assert not torch.equal(optimized(x), before)
    fresh = copy.deepcopy(optimized)  # copies have no packed weights
    assert not any(module._packed for module in fresh.modules() if isinstance(module, PackedConv2d))
    assert torch.equal(optimized(x), fresh(x))


@contextlib.contextmanager
def without_onednn():
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags also sets TF32, and warns of it
    yield
    torch._C._set_mkldnn_enabled(True)


@needs_onednn
@pytest.mark.parametrize(
    "inside",
    [without_onednn, lambda: torch.autocast("cpu", torch.bfloat16), lambda: FlopCounterMode(display=False)],
    ids=["oneDNN off", "autocast", "operations counted"],
)
def test_documented_operations_run_where_somebody_changes_them(inside):
    model, x = built(), images(2, 64).float()
    optimized = optimize(model, dtype=torch.float32)
    with torch.no_grad(), inside():
        expected = model(x).float()
        assert onednn_calls(optimized, x) == 0
        assert_same(optimized(x), expected, 0.05 if torch.is_autocast_enabled("cpu") else 1e-4)
    assert onednn_calls(optimized, x) > 0


@needs_onednn
def test_flops_are_those_of_the_model():
    model, x = built(), images(2, 64).float()
    counts = []
    for network in (model, optimize(model, dtype=torch.float32)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@needs_onednn
@pytest.mark.parametrize(
    ("options", "convolutions"),
    [({"channels_last": False}, 2), ({"dtype": torch.float64}, 0)],
    ids=["NCHW", "float64"],
)
def test_other_layouts_and_dtypes_run_in_documented_operations(options, convolutions):
    """The two convolutions of each attention see single pixels, which lie in memory the same way in both layouts."""
    assert has_packed_convolutions(torch.float32)
    model, x = built(), images(2, 64).float()
    optimized = optimize(model, **{"dtype": torch.float32, **options})
    blocks = sum(SHALLOW["layers"])
    assert onednn_calls(optimized, x) == convolutions * blocks
    with torch.no_grad():
        assert_same(optimized(x), model(x), 1e-4)


@needs_onednn
def test_gradients_and_transforms_of_the_images_are_right():
    model, x = built().requires_grad_(False), images(2, 64).float()
    optimized = optimize(model, dtype=torch.float32)
    gradients = [
        torch.autograd.grad(network(y := x.clone().requires_grad_()).square().sum(), y)[0]
        for network in (optimized, model)
    ]
    assert_same(*gradients, 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own rules are scripts
        tangents = [torch.func.jvp(network, (x,), (torch.ones_like(x),))[1] for network in (optimized, model)]
    assert_same(*tangents, 1e-3)
    convolution, maps = optimized.conv1[3], images(2, 8, channels=32).float()
    mapped = torch.func.vmap(lambda one: convolution(one[None])[0])(maps)
    assert_same(mapped, convolution(maps), 1e-5)


@needs_onednn
def test_exported_programs_hold_documented_operations_alone():
    model, x = built(), images(2, 64).float()
    program = torch.export.export(optimize(model, dtype=torch.float32), (x,))
    assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]
    with torch.no_grad():
        assert_same(program.module()(x), model(x), 1e-4)


@needs_onednn
def test_a_block_leaves_its_input_as_it_was():
    optimized = optimize(built(), dtype=torch.float32)
    inner = optimized.layer1[1]
    assert inner.downsample is None
    x = images(2, 16, channels=inner.conv1.in_channels).float().contiguous(memory_format=torch.channels_last)
    before = x.clone()
    assert onednn_calls(inner, x) > 0
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_so(dtype):
    """oneDNN's own ReLU makes 0 of it."""
    model, x = built(), images(2, 64).float()
    x[0, 0, 3, 3] = torch.nan
    logits = optimize(model, dtype=dtype)(x)
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


@pytest.mark.parametrize("broken", ["gone", "other arguments", "wrong"])
def test_operations_that_are_not_as_expected_are_not_used(monkeypatch, broken):
    def call(*args):
        if broken == "wrong":
            return F.conv2d(args[0], weight, args[2], *reversed(args[3:5]), *args[5:7]) * 2
        raise TypeError("_convolution_pointwise() expected at most 3 arguments")

    def keep(packed, *args):
        nonlocal weight
        weight = packed
        return packed

    weight = None
    operations = {"_reorder_convolution_weight": keep, "_convolution_pointwise": call, "_convolution_pointwise_": call}
    fake = SimpleNamespace(**({} if broken == "gone" else operations))
    model, x = built(), images(2, 64).float()
    optimized = optimize(model, dtype=torch.float32)
    monkeypatch.setattr(onednn, "OPS", fake)
    assert not has_packed_convolutions(torch.float32)
    with torch.no_grad():
        assert_same(optimized(x), model(x), 1e-4)
