"""What reads a network's code, `torch.fx` and TorchScript, in both modes: stock timm's outputs and gradients."""

import copy
import io
import re
import warnings

import pytest
import timm
import torch
from timm.layers import set_scriptable
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from resnest_timm.drop_block import add_drop_block
from tests.resnest_timm.as_timm.pairs import SMALL, VARIANTS, batch, pair
from tests.resnest_timm.helpers import assert_same, assert_same_run, create, images, run_model, stock

both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


@pytest.fixture(autouse=True)
def _torchscript_is_deprecated():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        yield


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
def test_symbolic_trace(name, train):
    """The graph computes what the model does, bit by bit in eval mode; it has parameters and gradients of its own."""
    ours, theirs = pair(name, train)
    graph = fx.symbolic_trace(copy.deepcopy(ours))
    assert_same_run(run_model(graph, batch()), run_model(theirs, batch()))
    if not train:
        assert torch.equal(graph(batch()), ours(batch()))


@pytest.mark.parametrize("name", VARIANTS)
def test_names_of_the_nodes_are_timms(name):
    """Of those that are calls of modules."""
    calls = []
    for model in pair(name):
        names = {key for key, _ in model.named_modules()}
        calls.append([[n for n in nodes if n in names] for nodes in get_graph_node_names(model)])
    assert calls[0] == calls[1]
    assert len(calls[0][0]) == len(calls[0][1]) > 50


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
def test_torchvisions_feature_extractor(name, train):
    """Of whole layers and of nodes within a block."""
    nodes = ["layer1", "layer2.0.conv2", "layer2.0.conv2.fc2", "layer2.0.bn2", "layer3.0.act3", "global_pool", "fc"]
    found = [create_feature_extractor(model, nodes)(batch()) for model in pair(name, train)]
    for node in nodes:
        assert_same(found[0][node], found[1][node])


@pytest.mark.parametrize("feature_cls", ["fx", "hook", "getter", "list"])
@pytest.mark.parametrize("name", VARIANTS)
def test_timms_features_by_every_class(name, feature_cls):
    whole, _ = pair(name, train=False)
    ours = timm.create_model(name, features_only=True, feature_cls=feature_cls, **SMALL).double().eval()
    state = whole.state_dict()
    prefixes = r"^(model|graph_module|body)\."
    ours.load_state_dict({key: state[re.sub(prefixes, "", key)] for key in ours.state_dict()})
    expected = whole.forward_intermediates(batch(), intermediates_only=True)
    for actual, wanted in zip(ours(batch()), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_convolutions_and_norms_fused_by_fx():
    ours, theirs = pair(train=False)
    fused = fuse(ours)
    assert_same(fused(batch()), theirs(batch()))
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
def test_script(name, train):
    ours, theirs = pair(name, train)
    scripted = torch.jit.script(copy.deepcopy(ours))
    assert_same_run(run_model(scripted, batch()), run_model(theirs, batch()))
    buffer = io.BytesIO()
    torch.jit.save(scripted.eval(), buffer)
    buffer.seek(0)
    assert_same(torch.jit.load(buffer)(batch()), scripted(batch()))


OTHERS = [{"drop_path_rate": 0.5, "drop_block_rate": 0.5}, {"block_args": {"radix": 0}}]


@pytest.mark.parametrize("kwargs", OTHERS, ids=str)
def test_other_forms_are_scripted_and_traced(kwargs):
    ours = create("resnest14d", **SMALL, **kwargs).eval()
    expected = ours(batch())
    scripted = torch.jit.script(copy.deepcopy(ours))
    assert_same(scripted(batch()), expected)
    assert scripted.train()(batch()).isfinite().all()
    assert_same(fx.symbolic_trace(ours)(batch()), expected)


def test_drop_block_of_the_authors_is_traced():
    ours = create("resnest14d", **SMALL)
    add_drop_block(ours, 0.1)
    expected = ours.eval()(batch())
    assert_same(torch.jit.script(copy.deepcopy(ours))(batch()), expected)
    assert_same(fx.symbolic_trace(ours)(batch()), expected)


def test_a_replaced_softmax_is_scripted_and_traced():
    """Whose weights need not sum to 1."""
    ours, theirs = pair(train=False)
    for model in (ours, theirs):
        model.layer1[0].conv2.rsoftmax = nn.Sigmoid()
    expected = theirs(batch())
    assert_same(ours(batch()), expected)
    assert_same(fx.symbolic_trace(ours)(batch()), expected)
    assert_same(torch.jit.script(ours)(batch()), expected)


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # PyTorch's BatchNorm, in train mode
def test_trace(name, train):
    """For batches of another size, too."""
    ours, theirs = pair(name, train)
    x = batch()
    traced = torch.jit.trace(copy.deepcopy(ours), x, check_trace=False)
    assert_same_run(run_model(traced, images(4, 48)), run_model(theirs, images(4, 48)))


def test_scriptable_and_exportable_models_of_timm():
    with set_scriptable(True):
        ours = timm.create_model("resnest14d", **SMALL, scriptable=True).eval()
    x = images(2, 48).float()
    assert_same(torch.jit.script(ours)(x), ours(x), 1e-5)
    assert timm.create_model("resnest14d", **SMALL, exportable=True).eval()(x).shape == (2, 4)
    features = timm.create_model("resnest14d", features_only=True, **SMALL).eval()
    scripted = torch.jit.script(features)
    for actual, expected in zip(scripted(x), features(x), strict=True):
        assert_same(actual, expected, 1e-5)
    assert stock("resnest14d", **SMALL).eval()(x).shape == (2, 4)


def test_freeze():
    ours, theirs = pair(train=False)
    frozen = torch.jit.freeze(torch.jit.script(ours))
    for _ in range(2):  # profiled first
        assert_same(frozen(batch()), theirs(batch()))
