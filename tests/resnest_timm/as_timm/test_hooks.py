"""Hooks and replaced modules: on every module they fire as in stock timm, see the same, and change the same."""

import copy
import pickle
from collections import defaultdict

import pytest
import timm
import torch
from timm.layers import GroupNorm1
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from tests.resnest_timm.as_timm.pairs import ALONE, SMALL, VARIANTS, batch, loss, pair
from tests.resnest_timm.helpers import assert_same, images, norms_of_single_values

both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
SEEN = ("pre", "forward", "backward pre", "backward")


def tensors(values):
    return [value.detach().clone() for value in values if isinstance(value, torch.Tensor)]


def watch(model, kinds=SEEN):
    """Hooks of all kinds on every module: (kind, module's name) -> what each call saw; and their order."""
    seen, order = defaultdict(list), []

    def note(kind, name, values):
        order.append((kind, name))
        seen[kind, name].append(tensors(values))

    for name, module in model.named_modules():
        backward = not name.endswith("bn3")  # whose output becomes the sum, in place
        if "pre" in kinds:
            module.register_forward_pre_hook(lambda m, args, name=name: note("pre", name, args))
        if "forward" in kinds:
            module.register_forward_hook(lambda m, args, out, name=name: note("forward", name, [out]))
        if "backward pre" in kinds and backward:
            module.register_full_backward_pre_hook(lambda m, grads, name=name: note("backward pre", name, grads))
        if "backward" in kinds and backward:
            module.register_full_backward_hook(lambda m, g, grads, name=name: note("backward", name, [*g, *grads]))
    return seen, order


def not_in_place(model):
    """Without what backward hooks forbid, in timm too."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def assert_same_calls(ours, theirs):
    assert ours[1] == theirs[1]  # each, in the same order
    for call, expected in theirs[0].items():
        for actual, wanted in zip(ours[0][call], expected, strict=True):
            for a, e in zip(actual, wanted, strict=True):
                assert_same(a, e, scale=float(e.abs().max()) + 0.01)


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_hooks_on_every_module(name, train):
    seen = []
    for model in pair(name, train):
        seen.append(watch(model, ("pre", "forward")))
        model(batch())
    assert_same_calls(*seen)


@pytest.mark.parametrize(("kwargs", "count"), [(SMALL, 3), (ALONE, 3), (ALONE, 1)], ids=["batch", "groups", "one"])
@pytest.mark.parametrize("name", VARIANTS)
def test_all_hooks_on_every_module(name, kwargs, count):
    seen = []
    for model in pair(name, **kwargs):
        seen.append(watch(not_in_place(model)))
        loss(model, batch()[:count].requires_grad_()).backward()
    assert_same_calls(*seen)


def test_a_backward_hook_where_timm_forbids_it():
    """The last norm's output becomes the sum."""
    for model in pair():
        model.layer1[0].bn3.register_full_backward_hook(lambda *args: None)
        with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
            model(batch())


@pytest.mark.parametrize("kind", ["pre", "forward", "backward"])
def test_what_a_hook_returns_counts(kind):
    """Of each module of a block by itself: twice what comes."""
    models = [not_in_place(model) for model in pair(train=False)]
    for name in (name for name, _ in models[1].layer1[0].named_modules() if name != "bn3"):
        found = []
        for model in models:
            module = model.layer1[0].get_submodule(name)
            if kind == "pre":
                handle = module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
            elif kind == "forward":
                handle = module.register_forward_hook(lambda m, args, out: out * 2)
            else:
                handle = module.register_full_backward_hook(lambda m, grads, out: (grads[0] * 2,))
            x = batch(32).requires_grad_()
            out = model(x)
            found.append((out, *torch.autograd.grad(out.square().sum(), x)))
            handle.remove()
        for actual, expected in zip(*found, strict=True):
            assert_same(actual, expected)


def test_hooks_for_all_modules_of_the_process():
    found = []
    for model in pair():
        called = []
        handles = [
            register_module_forward_hook(lambda m, args, out, called=called: called.append(("forward", name_of(m)))),
            register_module_forward_pre_hook(lambda m, args, called=called: called.append(("pre", name_of(m)))),
        ]
        try:
            loss(not_in_place(model), batch()).backward()
        finally:
            for handle in handles:
                handle.remove()
        found.append(called)
    assert found[0] == found[1]


def name_of(module):
    return {"SplitAttention": "SplitAttn", "ResNeStBottleneck": "ResNestBottleneck"}.get(
        name := type(module).__name__, name
    )


def replacements():
    def silu(block):
        block.act3 = nn.SiLU()

    def smooth_attention(block):
        block.conv2.act0 = nn.Softplus()
        block.conv2.act1 = nn.Tanh()

    def other_norms(block):
        block.bn1 = GroupNorm1(block.bn1.num_features).double()
        block.bn3 = nn.Identity()
        block.conv2.bn1 = nn.Identity()

    def after_attention(block):
        block.bn2, block.drop_block, block.act2 = (nn.Hardtanh(-limit, limit) for limit in (1.0, 0.9, 0.8))

    def softmax(block):
        block.conv2.rsoftmax = nn.Hardsigmoid()  # weights that do not sum to 1

    def pool(block):
        block.avd_first = nn.AvgPool2d(3, 1, 1)
        block.avd_last = nn.MaxPool2d(3, 2 if block.avd_last else 1, 1)

    def convolution(block):
        channels = block.conv2.conv.out_channels
        torch.manual_seed(0)
        block.conv2.fc2 = nn.Conv2d(block.conv2.fc1.out_channels, channels, 1, dtype=torch.float64)
        block.conv3 = nn.Sequential(nn.Identity(), block.conv3)

    return [silu, smooth_attention, other_norms, after_attention, softmax, pool, convolution]


@both_modes
@pytest.mark.parametrize("replace", replacements(), ids=lambda replace: replace.__name__)
def test_replaced_modules_count(replace, train):
    found = []
    for model in pair(train=train):
        before = model(batch()).detach()
        for block in (model.layer1[1], model.layer2[0]):
            replace(block)
        x = batch().requires_grad_()
        out = model(x)
        found.append((before, out, *torch.autograd.grad(out.square().sum(), [x, model.conv1[0].weight])))
    for actual, expected in zip(*found, strict=True):
        assert_same(actual, expected)
    assert not torch.allclose(found[0][0], found[0][1])


class Wrapper(nn.Module):
    """As an adapter stands around a layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 1.5


def bare_convolution(downsample):
    torch.manual_seed(0)
    return nn.Conv2d(downsample[1].in_channels, downsample[1].out_channels, 1, dtype=torch.float64)


SHORTCUTS = {
    "wrapper": Wrapper,
    "compiled": lambda downsample: torch.compile(downsample, backend="eager"),
    "convolution": bare_convolution,
    "without norm": lambda downsample: downsample[:2],
    "nested": lambda downsample: nn.Sequential(downsample, nn.Tanh()),
    "nothing in it": lambda downsample: nn.Sequential(downsample[1]),
}


@both_modes
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # the compiler asks
@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_shortcuts_of_another_kind(shortcut, count, train):
    found = []
    for model in pair(train=train, **ALONE):
        model.layer1[0].downsample = SHORTCUTS[shortcut](model.layer1[0].downsample)
        x = batch()[:count].requires_grad_()
        out = model(x)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, model.conv1[0].weight])))
    for actual, expected in zip(*found, strict=True):
        assert_same(actual, expected)


@pytest.mark.filterwarnings("ignore:ResNeSt got one image in train mode:UserWarning")
@pytest.mark.parametrize("size", [32, 64])
def test_one_image_where_timm_raises_calls_every_module(size):
    """Each as often as in eval mode, norms included that use their running statistics. Those stay, and modes do."""
    model, _ = pair()
    single = norms_of_single_values(model, size)
    assert single
    seen, _ = watch(model, ("pre", "forward"))
    model.eval()(images(1, size))
    calls = {call: len(values) for call, values in seen.items()}
    seen.clear()
    quiet, _ = pair()  # without hooks: nothing else but the hooks' view of it may change
    expected = quiet.train()(images(1, size))
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    assert_same(model.train()(images(1, size)), expected)
    assert {call: len(values) for call, values in seen.items()} == calls
    assert all(module.training for module in model.modules())
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, before[key]) == (key.rpartition(".")[0] in single)


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", VARIANTS)
def test_copies_give_the_same(name, through):
    ours, theirs = pair(name)
    loss(ours, batch()).backward()  # nothing of a backward pass stays in the model
    copied = through(ours)
    value, expected = (torch.autograd.grad(loss(m, batch()), m.conv1[0].weight) for m in (copied, theirs))
    assert_same(value[0], expected[0])


def test_models_of_the_registry_have_timms_modules():
    """But for the classes of block and attention."""
    for name in VARIANTS:
        ours, theirs = pair(name)
        names = [[(key, name_of(module)) for key, module in model.named_modules()] for model in (ours, theirs)]
        assert names[0] == names[1]
        assert timm.create_model(name, num_classes=3).fc.out_features == 3
