"""What transforms a network, `torch.func`, forward mode, batched gradients and `make_fx`: stock timm's numbers."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from tests.resnest_timm.as_timm.pairs import ALONE, SMALL, TARGETS, VARIANTS, batch, loss, pair
from tests.resnest_timm.helpers import assert_same

both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


@pytest.fixture(autouse=True)
def _pytorchs_own_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its rules for forward mode are scripts
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # an operation without a rule
        yield


def weights(model):
    return {key: p.detach() for key, p in model.named_parameters()}


def assert_all_same(actual, expected):
    for a, e in zip(torch.utils._pytree.tree_leaves(actual), torch.utils._pytree.tree_leaves(expected), strict=True):
        assert_same(a, e, scale=float(e.detach().abs().max()) + 0.01)


def image_loss(model):
    return lambda p, x, target: torch.nn.functional.cross_entropy(functional_call(model, p, (x[None],)), target[None])


def per_image(model):
    return vmap(grad(image_loss(model)), in_dims=(None, 0, 0))(weights(model), batch(), TARGETS)


def per_image_in_chunks(model):
    return vmap(grad(image_loss(model)), in_dims=(None, 0, 0), chunk_size=2)(weights(model), batch(), TARGETS)


def ensemble(model):
    """Two sets of weights, one batch."""
    stacked, x = {key: torch.stack([p, p * 1.1]) for key, p in weights(model).items()}, batch()
    return vmap(lambda p: functional_call(model, p, (x,)))(stacked)


def gradient_of_weights(model):
    return grad(lambda p: functional_call(model, p, (batch(),)).square().sum())(weights(model))


def gradient_of_gradient(model):
    return grad(lambda x: grad(lambda y: loss(model, y))(x).square().sum())(batch())


def pullback(model):
    out, pull = vjp(model, batch())
    return out, pull(torch.ones_like(out))


def pushforward(model):
    return jvp(model, (batch(),), (torch.ones_like(batch()),))


def pushforward_of_weights(model):
    p = weights(model)
    tangents = {key: torch.ones_like(value) for key, value in p.items()}
    return jvp(lambda p: functional_call(model, p, (batch(),)), (p,), (tangents,))


def forward_over_reverse(model):
    return jvp(grad(lambda x: loss(model, x)), (batch(),), (torch.ones_like(batch()),))


def reverse_over_forward(model):
    x = batch()
    return grad(lambda y: jvp(lambda z: loss(model, z), (y,), (torch.ones_like(y),))[1])(x)


def jacobian_backward(model):
    return jacrev(model)(batch(8))


def jacobian_forward(model):
    p, x = weights(model), batch(16)
    some = {key: p[key] for key in ("layer1.0.conv2.fc1.bias", "fc.bias")}

    def function(some):
        return functional_call(model, p | some, (x,))

    return jacfwd(function)(some), hessian(lambda some: function(some).square().sum())(some)


FUNCTIONS = [
    gradient_of_weights,
    gradient_of_gradient,
    pullback,
    pushforward,
    pushforward_of_weights,
    forward_over_reverse,
    reverse_over_forward,
    jacobian_backward,
    jacobian_forward,
    ensemble,
    per_image,
    per_image_in_chunks,
]


@both_modes
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_torch_func(function, train):
    ours, theirs = pair(VARIANTS[0], train, **ALONE)
    assert_all_same(function(ours), function(theirs))


@pytest.mark.parametrize("function", [per_image, forward_over_reverse], ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", VARIANTS[1:])
def test_torch_func_on_other_variants(name, function):
    ours, theirs = pair(name, **ALONE)
    assert_all_same(function(ours), function(theirs))


@both_modes
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_mode(name, train):
    """Tangents of the images, and of one layer in the attention alone."""
    found = []
    for model in pair(name, train):
        with forward_ad.dual_level():
            x = forward_ad.make_dual(batch(), torch.ones_like(batch()))
            found.append([forward_ad.unpack_dual(model(x)).tangent])
        layer = model.layer2[0].conv2.fc1
        with forward_ad.dual_level():
            weight = layer.weight
            del layer.weight
            layer.weight = forward_ad.make_dual(weight.detach(), torch.ones_like(weight))
            out = model(batch().requires_grad_())
            found[-1].append(forward_ad.unpack_dual(out).tangent)
    assert_all_same(*found)


@pytest.mark.parametrize(("name", "train"), [*((name, True) for name in VARIANTS), (VARIANTS[0], False)])
def test_batched_gradients(name, train):
    found = []
    for model in pair(name, train):
        x = batch(32).requires_grad_()
        out = model(x)
        every = torch.eye(out.numel(), dtype=torch.float64).view(-1, *out.shape)
        leaves = [x, model.conv1[0].weight, model.layer3[0].conv2.fc2.bias]
        batched = torch.autograd.grad(out, leaves, every, is_grads_batched=True, retain_graph=True)
        one = torch.autograd.grad(out, leaves, every[1], retain_graph=True)  # and nothing is left of it
        differentiable = torch.autograd.grad(out, x, every, is_grads_batched=True, create_graph=True)[0]
        second = torch.autograd.grad(differentiable.square().sum(), x, retain_graph=True)[0]
        mapped = vmap(lambda g, out=out, x=x: torch.autograd.grad(out, x, g, retain_graph=True)[0])(every)
        found.append([*batched, *one, differentiable, second, mapped])
        found[-1].append(torch.autograd.functional.jacobian(model, batch(16), vectorize=True))
    assert_all_same(*found)


def step_of(model):
    def step(x):
        out = model(x)
        return out, torch.autograd.grad(out.square().sum(), list(model.parameters()))

    return step


@pytest.mark.parametrize(("name", "train"), [(VARIANTS[0], True), (VARIANTS[1], False)])
def test_make_fx(name, train):
    """Forward and backward in one graph, of as many operations as stock timm's."""
    graphs, found = [], []
    for model in pair(name, train, **{**SMALL, "layers": [1, 1, 1, 1]}):
        graphs.append(make_fx(step_of(model))(batch()))
        found.append(graphs[-1](batch().flip(0)))
    assert_all_same(*found)
    nodes = [len(graph.graph.nodes) for graph in graphs]
    assert nodes[0] == nodes[1] > 400
