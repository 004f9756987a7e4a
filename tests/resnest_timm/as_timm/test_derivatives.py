"""Gradients of gradients, of parts and repeated: stock timm's, however the backward pass is cut."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from resnest_timm import SplitAttention
from resnest_timm.kernels import mixing
from tests.resnest_timm.as_timm.pairs import VARIANTS, batch, loss, pair
from tests.resnest_timm.helpers import assert_same, images, randomize

both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
each_variant = pytest.mark.parametrize("name", VARIANTS)


def assert_all_same(actual, expected):
    """Each as a part of the largest: some are sums that should be zero."""
    scale = max(float(tensor.abs().max()) for tensor in expected if tensor is not None)
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert_same(a, e, 1e-9, scale)


@both_modes
@each_variant
def test_gradient_penalty(name, train):
    found = []
    for model in pair(name, train):
        x = batch().requires_grad_()
        value = loss(model, x)
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        (value + 10 * grad.norm() ** 2).backward()
        found.append([x.grad, *(p.grad for p in model.parameters())])
    assert_all_same(*found)


@both_modes
@each_variant
def test_products_with_the_hessian(name, train):
    """Over parameters and images, in the direction of each of them."""
    found = []
    for model in pair(name, train):
        leaves = [batch().requires_grad_(), *model.parameters()]
        grads = torch.autograd.grad(loss(model, leaves[0]), leaves, create_graph=True)
        ones = [torch.ones_like(leaf) for leaf in leaves]
        found.append(torch.autograd.grad(grads, leaves, ones))
    assert_all_same(*found)


def test_meta_gradient():
    """MAML: through three steps of training."""
    found = []
    for model in pair():
        start = {key: p.detach().clone().requires_grad_() for key, p in model.named_parameters()}
        weights = start
        for step in range(3):
            value = F.cross_entropy(functional_call(model, weights, (batch().roll(step, 3),)), torch.tensor([0, 1, 2]))
            grads = torch.autograd.grad(value, list(weights.values()), create_graph=True)
            weights = {key: p - 0.01 * grad for (key, p), grad in zip(weights.items(), grads, strict=True)}
        functional_call(model, weights, (batch(),)).square().sum().backward()
        found.append([p.grad for p in start.values()])
    assert_all_same(*found)


@each_variant
@pytest.mark.parametrize("hooked", ["fc1", "fc2", "rsoftmax"])
def test_loss_of_the_scores_alone(name, hooked):
    found = []
    for model in pair(name):
        kept = []
        getattr(model.layer4[-1].conv2, hooked).register_forward_hook(lambda m, args, out, kept=kept: kept.append(out))
        model(batch())
        kept[0].square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert any(grad is None for grad in found[1])
    assert_all_same(*found)


@each_variant
def test_parts_of_a_backward_pass_leave_nothing_behind(name):
    """Each pair of different parts, the second with and without a graph of its own, and all of it after them."""
    found = []
    for model in pair(name):
        kept = []
        attention = model.layer1[0].conv2
        attention.fc2.register_forward_hook(lambda m, args, out, kept=kept: kept.append(out))
        attention.act0.register_forward_hook(lambda m, args, out, kept=kept: kept.append(out))
        x = batch().requires_grad_()
        value, (splits, scores) = loss(model, x), kept
        parts = [
            (value, attention.fc2.weight),
            (scores.square().sum(), model.conv1[0].weight),
            (value, splits),
            (splits.square().sum(), x),
            (value, x),
        ]
        gradients = []
        for first, second in itertools.permutations(parts, 2):
            torch.autograd.grad(*first, retain_graph=True)
            gradients += torch.autograd.grad(*second, retain_graph=True)
            torch.autograd.grad(*first, retain_graph=True)
            gradients += torch.autograd.grad(*second, create_graph=True)
        gradients += torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        gradients += torch.autograd.grad(value, list(model.parameters()))
        found.append([gradient.detach() for gradient in gradients])
    for actual, expected in zip(*found, strict=True):
        assert_same(actual, expected, scale=float(expected.abs().max()) + 0.01)  # before a norm, a bias has none


def test_gradients_accumulate_over_several_graphs():
    found = []
    for model in pair():
        values = [loss(model, batch().roll(shift, 3)) for shift in range(3)]
        for value in (values[1], values[0], values[2]):
            value.backward(retain_graph=True)
        sum(values).backward()
        found.append([p.grad for p in model.parameters()])
    assert_all_same(*found)


def test_gradients_kept_within():
    """`retain_grad` and tensor hooks, on what split attention shares out."""
    found = []
    for model in pair():
        kept, seen = [], []
        for block in (model.layer1[0], model.layer1[1]):
            for layer in (block.conv2.act0, block.conv2.fc2, block.conv2, block.conv3):
                layer.register_forward_hook(lambda m, args, out, kept=kept: kept.append(out))
        value = loss(model, batch())
        for tensor in kept:
            tensor.retain_grad()
            tensor.register_hook(lambda grad, seen=seen: seen.append(grad))
        value.backward()
        assert len(seen) == len(kept)
        found.append([tensor.grad for tensor in kept])
    assert_all_same(*found)


@pytest.mark.parametrize("radix", [1, 2, 3])
@pytest.mark.parametrize("batched", [False, True])
def test_the_functions_of_training_have_derivatives_of_both_orders(radix, batched):
    generator = torch.Generator().manual_seed(0)
    channels = 2 if radix == 2 else 2 * radix
    splits = torch.randn(2, 2 * radix, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.rand(2, channels, 1, 1, dtype=torch.float64, generator=generator).requires_grad_()

    def function(splits, weights):
        gap, carriers = mixing.pool(splits, radix)
        return mixing.mix(splits, weights, radix, carriers), gap

    def dependent(splits, weights):
        gap, carriers = mixing.pool(splits, radix)
        return mixing.mix(splits, weights * gap[:, :channels].square(), radix, carriers)

    for checked in (function, dependent, lambda s, w: function(s, w)[0], lambda s, w: function(s, w)[1] * w.sum()):
        assert gradcheck(checked, (splits, weights), check_batched_grad=batched)
        assert gradgradcheck(checked, (splits, weights), check_batched_grad=batched)


@both_modes
@pytest.mark.parametrize(("radix", "groups"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_split_attention_has_derivatives_of_both_orders(radix, groups, train):
    """Its square, too: the gradient that comes back then depends on what goes in."""
    layer = randomize(SplitAttention(8, groups=groups, radix=radix, norm_layer=nn.BatchNorm2d, dtype=torch.float64))
    layer.train(train)
    x = images(3, 2, channels=8).requires_grad_()
    for function in (layer, lambda x: layer(x) ** 2):
        assert gradcheck(function, (x,), check_batched_grad=True)
        assert gradgradcheck(function, (x,), check_batched_grad=True, fast_mode=not train)


@both_modes
@each_variant
def test_a_whole_network_has_derivatives_of_both_orders(name, train):
    """Smooth, else the differences would step over kinks; ours alone, for timm's attention keeps its ReLU."""
    model, _ = pair(name, train)
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, key, nn.Softplus())
    model.maxpool = nn.AvgPool2d(2)
    keys = ("conv1.0.weight", "layer1.0.conv2.fc1.weight", "layer2.0.conv2.conv.weight", "layer4.0.bn3.weight")
    values = [model.get_parameter(key) for key in keys]

    def function(x, *values):
        return functional_call(model, dict(zip(keys, values, strict=True)), (x,))

    inputs = (images(3, 32).requires_grad_(), *values)
    assert gradcheck(function, inputs, fast_mode=True, atol=1e-4, rtol=1e-3)
    assert gradgradcheck(function, inputs, fast_mode=True, atol=1e-4, rtol=1e-3)
