"""The inference form: equal outputs, no BatchNorm left where one can go, and a model left as it was."""

import copy
import io
import logging
import math

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from resnest_timm import OptimizeError, optimize
from resnest_timm.inference import hardware
from resnest_timm.inference import optimize as inference
from resnest_timm.inference.hardware import has_fast_bf16
from resnest_timm.resnest import VARIANTS
from tests.resnest_timm.helpers import NAMES, SHALLOW, assert_same, create, images, is_same, norms, randomize

FLOAT32 = {"dtype": torch.float32}


def built(name="resnest14d", **kwargs):
    """A float32 model in train mode, every norm randomised."""
    return create(name, **kwargs).float().train()


@torch.no_grad()
def outputs(model, x):
    """In eval mode, and left in the mode it was in."""
    before = model.training
    out = model.eval()(x)
    model.train(before)
    return out


@pytest.mark.slow(seconds=2)
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_gives_equal_logits_without_batchnorm(name):
    assert set(NAMES) == VARIANTS.keys()
    model, x = built(name, num_classes=10), images(2, 64).float()
    expected = outputs(model.double(), x.double()).float()
    optimized = optimize(model, **FLOAT32)
    assert not norms(optimized)
    assert_same(optimized(x), expected, 1e-4)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"output_stride": 8},
        {"output_stride": 16},
        {"act_layer": "silu"},
        {"drop_path_rate": 0.5, "drop_rate": 0.5, "drop_block_rate": 0.5},
        {"in_chans": 1},
        {"num_classes": 0},
        {"norm_layer": "frozenbatchnorm2d"},
        {"norm_layer": "batchnorm2d", "global_pool": "catavgmax"},
    ],
    ids=lambda kwargs: ",".join(f"{key}={value}" for key, value in kwargs.items()),
)
def test_models_of_every_kind_give_equal_outputs(kwargs, channels_last):
    if kwargs.get("norm_layer") == "frozenbatchnorm2d":
        kwargs = kwargs | {"norm_layer": lambda channels, device=None, dtype=None: FrozenBatchNorm2d(channels)}
    model = randomize_frozen(timm.create_model("resnest14d", **{**SHALLOW, **kwargs}))
    x = images(2, 64, channels=kwargs.get("in_chans", 3)).float()
    optimized = optimize(model, channels_last=channels_last, **FLOAT32)
    assert not any(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in optimized.modules())
    assert_same(optimized(x), outputs(model, x), 1e-4)
    assert optimized.forward_features(x).is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def randomize_frozen(model):
    """`randomize`, and FrozenBatchNorm2d alike."""
    model = randomize(model)
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for name, low in (("weight", 0.5), ("bias", -0.1), ("running_mean", -0.1), ("running_var", 0.5)):
                getattr(module, name).copy_(torch.rand(module.weight.shape, generator=generator) * 0.4 + low)
    return model


def test_feature_maps_are_a_list_as_before():
    model, x = built(features_only=True, out_indices=(0, 1, 2, 3, 4)), images(2, 64).float()
    optimized = optimize(model, **FLOAT32)
    assert not norms(optimized)
    maps, expected = optimized(x), outputs(model, x)
    assert isinstance(maps, list)
    assert len(maps) == len(expected) == 5
    for actual, wanted in zip(maps, expected, strict=True):
        assert_same(actual, wanted, 1e-4)
    assert optimized.feature_info.channels() == model.feature_info.channels()
    assert [m.dtype for m in optimize(model, dtype=torch.bfloat16)(x)] == [torch.float32] * 5


def test_parts_of_the_forward_pass_still_fit_together():
    model, x = built(**SHALLOW), images(2, 64).float()
    optimized = optimize(model, dtype=torch.bfloat16)
    assert type(optimized) is type(model)
    assert optimized.num_classes == 10
    assert optimized.pretrained_cfg == model.pretrained_cfg
    features = optimized.forward_features(x)
    assert features.dtype == torch.bfloat16
    assert_same(optimized.forward_head(features).float(), optimized(x), 1e-6)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet50d", 0),
        ("convnext_atto", 0),
        ("densenet121", 62),
        ("efficientnet_lite0", 0),
        ("vit_tiny_patch16_224", 0),
    ],
)
def test_other_families_give_equal_logits_too(name, left):
    """Norms with an activation, before their convolution, of other kinds, or none: what cannot be folded stays.

    DenseNet's 62: one before each of its 58 dense layers, three transitions and the classifier.
    """
    model = randomize(timm.create_model(name, num_classes=10)).float()
    x = images(2, 224 if "vit" in name else 64).float()
    optimized = optimize(model, **FLOAT32)
    assert len(norms(optimized)) == left
    assert_same(optimized(x), outputs(model, x), 1e-4)


class Tangle(nn.Module):
    """Convolutions and norms, one pair of which is plain."""

    def __init__(self):
        super().__init__()
        for name in ("plain", "twice", "shared", "other_use", "returned", "hooked", "batch", "standard"):
            convolution = nn.Conv2d(3, 3, 1, bias=name != "plain")
            setattr(self, name, convolution)
            setattr(self, f"{name}_norm", nn.BatchNorm2d(3, track_running_stats=name != "batch"))
        self.grouped, self.grouped_norm = nn.Conv2d(3, 3, 1), nn.GroupNorm(3, 3)
        self.standard = timm.layers.ScaledStdConv2d(3, 3, 1)
        self.act_norm, self.act = BatchNormAct2d(3, act_layer=nn.SiLU), nn.Conv2d(3, 3, 1)
        self.calls = 0
        self.hooked.register_forward_pre_hook(self.count)

    def count(self, module, args):
        self.calls += 1

    def forward(self, x):
        out = self.plain_norm(self.plain(x)) + self.grouped_norm(self.grouped(x))
        out = self.twice_norm(self.twice(self.twice_norm(self.twice(out))))
        out = self.shared_norm(self.shared(out)) + self.shared_norm(out)
        other = self.other_use(out)
        out = self.other_use_norm(other) * other
        out = self.hooked_norm(self.hooked(out))
        out = self.batch_norm(self.batch(out)) + self.standard_norm(self.standard(out))
        returned = self.returned(self.act_norm(self.act(out)))
        return [returned, self.returned_norm(returned)]


def tangle():
    model, generator = Tangle().eval(), torch.Generator().manual_seed(4)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def test_only_a_norm_that_alone_uses_a_plain_convolution_is_folded():
    model, x = tangle().double(), images(2, 16)
    optimized = optimize(model, dtype=torch.float64)
    folded = norms(model).keys() - norms(optimized).keys()
    assert folded == {"plain_norm", "act_norm"}
    for actual, expected in zip(optimized(x), outputs(model, x), strict=True):
        assert_same(actual, expected)


def test_sync_batchnorm_is_folded():
    model, x = built(**SHALLOW), images(2, 64).float()
    expected = outputs(model, x)
    optimized = optimize(nn.SyncBatchNorm.convert_sync_batchnorm(model), **FLOAT32)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in optimized.modules())
    assert_same(optimized(x), expected, 1e-4)


def test_the_model_is_left_as_it_was():
    seen = []
    model = built(**SHALLOW)
    model.layer1.eval()
    model.fc.requires_grad_(False)
    model.register_forward_hook(lambda module, args, out: seen.append(out))
    state = copy.deepcopy(model.state_dict())
    flags = {name: module.training for name, module in model.named_modules()}
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    hooks = list(model._forward_hooks.values())
    types = {name: type(module) for name, module in model.named_modules()}
    optimize(model, dtype=torch.bfloat16)
    assert not seen
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
        assert tensor.stride() == state[name].stride()
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == gradients
    assert list(model._forward_hooks.values()) == hooks
    assert not model._forward_pre_hooks
    assert {name: type(module) for name, module in model.named_modules()} == types


def test_the_copy_shares_no_memory_and_needs_no_gradient():
    model = built(**SHALLOW)
    optimized = optimize(model, channels_last=False, **FLOAT32)
    memory = {parameter.data_ptr() for parameter in model.parameters()}
    assert not memory & {parameter.data_ptr() for parameter in optimized.parameters()}
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    assert not any(module.training for module in optimized.modules())


def test_optimised_again_is_the_same():
    model, x = built(**SHALLOW), images(2, 64).float()
    once = optimize(model, dtype=torch.bfloat16)
    twice = optimize(once, dtype=torch.bfloat16)
    assert torch.equal(twice(x), once(x))
    hooks = [sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) for model in (once, twice)]
    assert hooks == [3, 3]


@pytest.mark.parametrize("through", ["deepcopy", "pickle", "state dict"])
def test_copies_of_an_optimised_model_give_the_same(through):
    model, x = built(**SHALLOW), images(2, 64).float()
    optimized = optimize(model, dtype=torch.bfloat16)
    if through == "deepcopy":
        again = copy.deepcopy(optimized)
    elif through == "pickle":
        file = io.BytesIO()
        torch.save(optimized, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    else:
        again = optimize(create("resnest14d", **SHALLOW), dtype=torch.bfloat16)
        with torch.no_grad():
            again.fc.weight.zero_()
        again.load_state_dict(optimized.state_dict())
    assert torch.equal(again(x), optimized(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_of_any_dtype_and_layout_come_back_as_they_went_in(dtype):
    model, x = built(**SHALLOW), images(2, 64)
    expected = outputs(model, x.float()).to(dtype)
    for weights in (torch.float32, torch.bfloat16):
        optimized = optimize(model, dtype=weights)
        for form in (torch.channels_last, torch.contiguous_format):
            logits = optimized(x.to(dtype, memory_format=form))
            exact = weights == torch.float32 and dtype != torch.bfloat16
            assert_same(logits, expected, 1e-4 if exact else 0.05)


def test_bfloat16_is_close_and_no_more():
    model, x = built(num_classes=10), images(4, 64).float()
    logits = optimize(model, dtype=torch.bfloat16)(x)
    assert_same(logits, outputs(model, x), 0.05)
    assert not is_same(logits, outputs(model, x), 1e-4)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_dtype_is_the_best_of_the_hardware(monkeypatch, fast, dtype):
    asked = []
    monkeypatch.setattr(inference, "has_fast_bf16", lambda device: asked.append(device) or fast)
    model = built(**SHALLOW)
    assert {parameter.dtype for parameter in optimize(model.double()).parameters()} == {dtype}
    assert asked == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("cpu_name", "there", "fast"),
    [
        ("Intel Xeon", {"amx_bf16", "avx512_bf16", "avx512_fp16"}, True),
        ("Intel Xeon", {"avx512_bf16", "avx512_fp16"}, False),  # AMX is hidden
        ("Intel Xeon", {"avx512_bf16"}, True),  # Cooper Lake
        ("AMD EPYC", {"avx512_bf16"}, True),
        ("AMD EPYC", {"avx512_bf16", "avx512_fp16"}, True),
        ("Intel Xeon", {"avx512_f"}, False),
        ("Neoverse", set(), False),
    ],
)
def test_bfloat16_is_fast_on_a_cpu_with_amx_or_avx512_bf16_of_its_own(monkeypatch, cpu_name, there, fast):
    names = ("amx_bf16", "avx512_bf16", "avx512_fp16", "avx512_f")
    capabilities = {"cpu_name": cpu_name} | {name: name in there for name in names}
    monkeypatch.setattr(hardware.torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bf16("cpu") is fast
    assert not has_fast_bf16("meta")


def test_train_mode_is_refused_until_eval_mode_is_back():
    optimized, x = optimize(built(**SHALLOW), **FLOAT32), images(2, 64).float()
    before = optimized(x)
    with pytest.raises(OptimizeError, match=r"got an optimised model in train mode.* call \.eval"):
        optimized.train()(x)
    assert torch.equal(optimized.eval()(x), before)


def test_gradients_of_the_images_are_there_for_who_asks():
    optimized, x = optimize(built(**SHALLOW), **FLOAT32), images(2, 64).float().requires_grad_()
    optimized(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_no_floating_dtype_is_refused():
    with pytest.raises(OptimizeError, match=r"dtype must be a floating dtype such as torch.bfloat16, got torch.int8"):
        optimize(built(**SHALLOW), dtype=torch.int8)


def test_images_of_another_size_are_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 2)).eval()
    with pytest.raises(OptimizeError, match=r"images \[B, 3, 224, 224\] .*'meta', got Sequential: .*give input_size"):
        optimize(model, **FLOAT32)
    optimized, x = optimize(model, input_size=(3, 8, 8), **FLOAT32), images(2, 8).float()
    assert not norms(optimized)
    assert_same(optimized(x), outputs(model, x), 1e-5)


@pytest.mark.parametrize(("value", "dtype"), [(math.nan, torch.float32), (1e30, torch.float16)])
def test_what_a_compiled_form_would_hide_is_refused(value, dtype):
    model = built()
    with torch.no_grad():
        model.layer1[0].conv1.weight[0, 0] = value
    with pytest.raises(OptimizeError, match=r"NaN or infinity in layer1\.0\.conv1\.weight \(torch\.float.*folded"):
        optimize(model, dtype=dtype, compile=True)
    assert optimize(model, dtype=dtype)(images(1, 64).float()).isnan().all()


@pytest.mark.slow(seconds=40)
def test_compiled_and_frozen_gives_equal_logits():
    logging.disable(logging.DEBUG)  # pytest would keep every line of the compiler's trace
    torch.compiler.reset()
    try:
        model = built(channels=(8, 8, 8, 8), layers=[1, 1, 1, 1], num_classes=10)
        x = images(2, 64).float()
        expected = outputs(model, x)
        optimized = optimize(model, compile=True, **FLOAT32)
        logits = optimized(x)  # with gradients enabled, as a caller may
        assert not logits.requires_grad
        assert_same(logits, expected, 1e-4)
        with torch.no_grad():
            optimized.layer1[0].conv1.weight.zero_()
        assert torch.equal(optimized(x), logits)  # frozen: the compiled call has its own weights
        assert not is_same(copy.deepcopy(optimized)(x), expected, 1e-4)  # copies have none
        again = optimize(torch.compile(model), **FLOAT32)
        assert type(again) is type(model)
        assert_same(again(x), expected, 1e-4)
    finally:
        torch.compiler.reset()
        logging.disable(logging.NOTSET)
