"""One image in train mode: stock timm stops ("Expected more than 1 value per channel"), ours does not."""

from collections.abc import Iterator
from functools import partial

import pytest
import timm
import torch
from torch import nn

import resnest_timm  # noqa: F401
from resnest_timm.split_attention import _warn_running_statistics
from tests.resnest_timm.helpers import (
    KINDS,
    NAMES,
    NARROW,
    SHALLOW,
    assert_same_run,
    create,
    images,
    materialize,
    norms,
    norms_of_single_values,
    run_model,
    stock,
)

MESSAGE = "ResNeSt got one image in train mode.*Use at least 2 images per batch and device"


@pytest.fixture(autouse=True)
def warns_anew() -> Iterator[None]:
    """The warning comes once per process."""
    _warn_running_statistics.cache_clear()
    yield
    _warn_running_statistics.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_leaves_only_the_norms_of_single_values_as_they_are(name: str) -> None:
    model = materialize(timm.create_model(name, device="meta", num_classes=10, **NARROW), torch.float32)
    for size in (64, 32):
        single = norms_of_single_values(model, size)
        assert {key for key in norms(model) if key.endswith("conv2.bn1")} <= single
        elsewhere = {key for key in single if not key.endswith("conv2.bn1")}
        assert all(key.startswith("layer4.") for key in elsewhere)
        assert ({"layer4.0.bn3", "layer4.0.downsample.2"} <= elsewhere) == bool(elsewhere) == (size == 32)

        before = {key: buffer.clone() for key, buffer in model.named_buffers()}
        _warn_running_statistics.cache_clear()
        with pytest.warns(UserWarning, match=MESSAGE) as record:
            out = model.train()(images(1, size, dtype=torch.float32))
        assert len(record) == 1
        for key, buffer in model.named_buffers():
            assert torch.equal(buffer, before[key]) == (key.rpartition(".")[0] in single), key
        model.zero_grad()
        out.logsumexp(1).sum().backward()
        for parameter in model.parameters():
            assert bool(parameter.grad.isfinite().all())
            assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize("name", KINDS)
def test_outputs_and_gradients_are_those_of_running_statistics_there(name: str, size: int) -> None:
    model = create(name, **SHALLOW)
    single = norms_of_single_values(model, size)
    x = images(1, size)
    with pytest.warns(UserWarning, match=MESSAGE):
        actual = run_model(model.train(), x)
    for key, norm in norms(model).items():
        norm.train(key not in single)
    assert_same_run(actual, run_model(model, x))


def test_warns_once() -> None:
    model, x = create("resnest14d", **SHALLOW).train(), images(1, 64)
    with pytest.warns(UserWarning, match=MESSAGE) as record:
        model(x)
    assert len(record) == 1
    model(x)  # a second warning would be an error
    create("resnest50_fast_2s1x64d", **SHALLOW).train()(x)


def test_one_image_in_eval_mode_and_frozen_norms_do_not_warn() -> None:
    model, x = create("resnest14d", **SHALLOW), images(1, 64)
    expected = model.eval()(x)
    model.train()
    for norm in norms(model).values():
        norm.eval()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", KINDS)
def test_two_images_are_unaffected(name: str) -> None:
    """Also where two values are all that a norm sees."""
    arguments = {**SHALLOW, "layers": [1, 1, 1, 1]}
    ours, theirs = create(name, **arguments), materialize(stock(name, device="meta", **arguments))
    x = images(2, 32)
    assert_same_run(run_model(ours.train(), x), run_model(theirs.train(), x), 1e-6)
    for (key, buffer), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-9, atol=1e-9, msg=key)


def test_stock_timm_stops() -> None:
    model = materialize(stock("resnest14d", device="meta")).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(images(1, 64))


def test_sync_batch_norm_is_left_to_the_other_ranks() -> None:
    """It replaces every norm, keeps the outputs, and is called: a rank that did not would leave the others waiting."""
    model = create("resnest14d", **SHALLOW).eval()
    count, x = len(norms(model)), images(1, 64)
    expected = model(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == count
    assert not norms(converted)
    assert torch.equal(converted(x), expected)

    attention = converted.layer1[0].conv2.train()
    for module in attention.modules():
        module.train(module is attention.bn1)
    # Without a process group it is a plain BatchNorm, whose refusal shows that it was called.
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        attention(images(1, 8, channels=32))


def test_norms_without_running_statistics_are_left_to_pytorch() -> None:
    model = timm.create_model("resnest14d", norm_layer=partial(nn.BatchNorm2d, track_running_stats=False))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(images(1, 64, dtype=torch.float32))


def test_other_norms_need_nothing_special() -> None:
    model = timm.create_model("resnest14d", norm_layer="groupnorm1", num_classes=10).train()
    logits = model(images(1, 32, dtype=torch.float32))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
