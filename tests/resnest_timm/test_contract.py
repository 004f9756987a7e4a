"""What timm promises of every model, kept by every variant: shapes on `meta`, numbers on shallow networks."""

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import Tensor

import resnest_timm  # noqa: F401
from tests.resnest_timm.helpers import (
    FACTS,
    KINDS,
    NAMES,
    SHALLOW,
    assert_same,
    assert_same_run,
    create,
    images,
    run_model,
)

CHANNELS = (256, 512, 1024, 2048)


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True, device="meta").eval()
    channels = [2 * FACTS[name].stem, *CHANNELS]
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    shapes = [(2, c, 64 // r, 64 // r) for c, r in zip(channels, (2, 4, 8, 16, 32), strict=True)]
    assert [tuple(feature.shape) for feature in model(empty(2, 3, 64, 64))] == shapes

    model = timm.create_model(name, features_only=True, out_indices=(1, 3), in_chans=4, device="meta").eval()
    assert model.feature_info.channels() == [256, 1024]
    assert model.feature_info.reduction() == [4, 16]
    assert [tuple(feature.shape) for feature in model(empty(2, 4, 64, 64))] == [shapes[1], shapes[3]]
    assert not any(name.startswith(("layer4", "fc")) for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_input_channels_classes_and_head(name: str) -> None:
    model = timm.create_model(name, in_chans=1, num_classes=0, device="meta").eval()
    assert model.conv1[0].in_channels == 1
    assert model.num_features == model.head_hidden_size == 2048
    assert model(empty(2, 1, 64, 64)).shape == (2, 2048)
    assert "fc.weight" not in model.state_dict()

    model.reset_classifier(7)
    assert model.get_classifier().out_features == model.num_classes == 7
    assert model(empty(2, 1, 64, 64)).shape == (2, 7)
    assert model.forward_head(empty(2, 2048, 2, 2), pre_logits=True).shape == (2, 2048)
    model.reset_classifier(5, global_pool="catavgmax")
    assert model.head_hidden_size == 4096
    assert model.forward_head(empty(2, 2048, 2, 2)).shape == (2, 5)
    model.reset_classifier(0, global_pool="")
    assert model.forward_head(empty(2, 2048, 2, 2)).shape == (2, 2048, 2, 2)

    model = timm.create_model(name, in_chans=4, num_classes=3, global_pool="max", device="meta")
    assert model.conv1[0].in_channels == 4
    assert model.fc.weight.shape == (3, 2048)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_groups_cover_the_network_block_by_block(name: str) -> None:
    model = timm.create_model(name, device="meta")
    parameters = {parameter: key for key, parameter in model.named_parameters()}
    fine = group_parameters(model, model.group_matcher())
    assert sorted(key for keys in fine.values() for key in keys) == sorted(parameters.values())
    assert len(fine) == 1 + sum(FACTS[name].layers) + 1  # stem, blocks, head
    assert {key.split(".")[0] for key in fine[0]} == {"conv1", "bn1"}
    assert fine[len(fine) - 1] == ["fc.weight", "fc.bias"]
    for index in range(1, len(fine) - 1):
        assert len({tuple(key.split(".")[:2]) for key in fine[index]}) == 1

    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert coarse.keys() == set(parameters.values())
    some = ("conv1.0.weight", "layer1.0.conv2.fc1.bias", "layer4.0.bn3.bias", "fc.bias")
    assert [coarse[key] for key in some] == [0, 1, 4, 5]


@pytest.mark.parametrize("name", KINDS)
def test_intermediates_are_the_features_and_lead_to_the_logits(name: str) -> None:
    model = create(name, **SHALLOW).eval()
    features = timm.create_model(name, features_only=True, device="meta", **{**SHALLOW, "num_classes": 0}).eval()
    body = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("fc.")}
    features.load_state_dict(body, strict=True, assign=True)
    x = images(2, 64)
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(x)
        for intermediate, feature in zip(intermediates, features(x), strict=True):
            assert torch.equal(intermediate, feature)
        assert torch.equal(final, model.forward_features(x))
        assert torch.equal(model.forward_head(final), model(x))
        some = model.forward_intermediates(x, indices=(1, 2), stop_early=True, intermediates_only=True)
        assert [tuple(map_.shape) for map_ in some] == [(2, 128, 16, 16), (2, 256, 8, 8)]
        assert torch.equal(some[1], intermediates[2])
        model.prune_intermediate_layers(2)
        assert torch.equal(model.forward_features(x), intermediates[4])


@pytest.mark.parametrize(("name", "batch"), [*((name, 3) for name in KINDS), ("resnest50_fast_1s1x64d", 1)])
@pytest.mark.filterwarnings("ignore:ResNeSt got one image in train mode:UserWarning")
def test_gradient_checkpointing_changes_no_gradient(name: str, batch: int) -> None:
    model, x = create(name, **SHALLOW).train(), images(batch, 48)
    expected = run_model(model, x)
    calls = []
    model.layer2[0].conv2.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    assert_same_run(run_model(model, x), expected, 1e-12)
    assert len(calls) == 2  # forward, and again for the gradients
    model.set_grad_checkpointing(False)
    run_model(model, x)
    assert len(calls) == 3


@pytest.mark.parametrize("name", KINDS)
def test_channels_last_changes_no_output_and_no_gradient(name: str) -> None:
    model, x = create(name, **SHALLOW), images(3, 48)
    expected = run_model(model, x)
    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    assert_same_run(run_model(model, x), expected)
    with torch.no_grad():
        for feature in model.forward_intermediates(x, intermediates_only=True):
            assert feature.is_contiguous(memory_format=torch.channels_last)
            assert not feature.is_contiguous()


@pytest.mark.parametrize("name", KINDS)
def test_reduced_precision_is_close(name: str) -> None:
    model, x = create(name, **SHALLOW).float().eval(), images(4, 64, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            types = [feature.dtype for feature in model.forward_intermediates(x, intermediates_only=True)]
            actual = model(x)
        assert types == [torch.bfloat16] * 5
        assert actual.dtype == torch.bfloat16
        assert_same(actual.float(), expected, 0.05)
        assert_same(model.bfloat16()(x.bfloat16()).float(), expected, 0.05)


@pytest.mark.parametrize("name", KINDS)
def test_trains_in_reduced_precision(name: str) -> None:
    model, x = create(name, **SHALLOW).float().train(), images(4, 64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_float64_and_device_are_passed_down() -> None:
    model = timm.create_model("resnest14d", dtype=torch.float64, device="cpu", num_classes=3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(images(2, 32)).dtype == torch.float64
    assert all(
        tensor.is_meta for tensor in timm.create_model("resnest50d_4s2x40d", device="meta").state_dict().values()
    )
