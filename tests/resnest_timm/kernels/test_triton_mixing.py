"""The Triton kernels: their numbers (without a GPU in Triton's interpreter), their machine code, when they are used."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad

from resnest_timm import SplitAttention
from resnest_timm.kernels import fused, mixing
from tests.resnest_timm.helpers import assert_same, create, images, randomize, run_model

TOLERANCES = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}
"""One unit in the last place: Triton's interpreter truncates where GPUs round."""

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
FUNCTIONS = ("global_average", "weighted_sum", "weights_gradient", "splits_gradient")
OURS = "resnest_timm.kernels.triton"


def run_program(name, **environment):
    command = [sys.executable, "-W", "error", "-m", f"tests.resnest_timm.kernels.{name}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    return run_program("triton_interpreted")


# --- numbers ---------------------------------------------------------------------------------------------------------


@needs_triton
def test_numbers_are_those_of_the_plain_functions_in_float64(interpreted):
    """Every function in every dtype, layout, radix and odd shape; what is read or written beside a map would show."""
    assert len(interpreted["numbers"]) == 280
    for name, found in interpreted["numbers"].items():
        _, *_, dtype, layout, _ = name.split()
        assert found["error"] <= TOLERANCES[dtype], name
        assert found["shape"], name
        assert found["dtype"] == dtype, name
        assert found["formats"] or layout == "permuted", name
        assert not found["outside"], name
        assert found["repeats"], name


@needs_triton
def test_dtypes_may_be_mixed(interpreted):
    """The results have the dtype of PyTorch's promotion; the gradient of the splits that of the gradient it is of."""
    assert len(interpreted["mixed"]) == 9
    for name, found in interpreted["mixed"].items():
        dtype = "bfloat16" if name.startswith("_splits") else "float32"
        assert found["dtype"] == dtype, name
        assert found["error"] <= TOLERANCES[dtype], name


@needs_triton
def test_maps_may_be_larger_than_32_bit_offsets(interpreted):
    assert interpreted["far"] == dict.fromkeys(
        ["global_average", "weighted_sum", "_weights_gradient", "_splits_gradient"], True
    )


@needs_triton
def test_what_the_kernels_are_not_made_for_is_left_to_pytorch(interpreted):
    assert len(interpreted["refused"]) == 11
    assert {name for name, refused in interpreted["refused"].items() if not refused} == set()


@needs_triton
def test_split_attention_has_the_outputs_and_gradients_of_float64(interpreted):
    """In training each kernel runs once; where autograd records, as in eval mode with gradients, none does."""
    assert len(interpreted["layers"]) == 24
    for name, found in interpreted["layers"].items():
        assert found["error"] <= 2e-5, name
        assert found["recording"] == ([1, 1, 1, 1] if name.endswith("train") else [0, 0, 0, 0]), name
        assert found["no_grad"] == [1, 1, 0, 0], name


@needs_triton
@pytest.mark.slow(seconds=40)
def test_kernels_compile_to_machine_code_that_moves_16_bytes_at_once(tmp_path):
    """For compute capability 8.0 and 9.0, by the compilers in Triton; no GPU is needed for that."""
    found = run_program("triton_compiled", TRITON_CACHE_DIR=str(tmp_path))
    assert {kernel["kernel"] for kernel in found} == {"_sum_kernel", "_weighted_sum_kernel", "_splits_gradient_kernel"}
    assert len(found) > 30
    for kernel in found:
        assert kernel["bytes"] > 0, kernel
        assert not kernel["atomics"], kernel
        if " 56 " in kernel["case"]:
            assert "ld.global.v4.b32" in kernel["loads"], kernel
        if " 56 " in kernel["case"] and kernel["kernel"] != "_sum_kernel":
            assert kernel["stores"] == ["st.global.v4.b32"], kernel


# --- when they are used ----------------------------------------------------------------------------------------------


class FakeKernels(SimpleNamespace):
    """Stands for `triton_mixing`; its answers are told by their value."""

    def __init__(self, error=None, answers=True):
        super().__init__(calls=[])
        for name in FUNCTIONS:
            setattr(self, name, self.make(name, error, answers))

    def make(self, name, error, answers):
        def kernel(x, *args):
            self.calls.append(name)
            if error is not None:
                raise error
            return torch.full((1,), 42.0) if answers else None

        return kernel


@pytest.fixture
def kernels(monkeypatch):
    """Make a machine with a GPU, as far as the dispatch can see; returns a function that chooses its kernels."""
    monkeypatch.setattr(fused, "is_on_gpu", lambda x: True)
    monkeypatch.setattr(fused, "MIN_VALUES", 0)
    monkeypatch.setattr(fused, "_failed", False)

    def use(**kwargs):
        fake = FakeKernels(**kwargs)
        monkeypatch.setattr(fused, "load_kernels", lambda: fake)
        return fake

    return use


def arguments(dtype=torch.float32):
    """Of each of the four functions, for three splits of two channels."""
    splits, grad = torch.rand(2, 6, 3, 4, dtype=dtype), torch.rand(2, 2, 3, 4, dtype=dtype)
    weights = torch.rand(2, 6, 1, 1, dtype=dtype)
    return {
        "global_average": (splits,),
        "weighted_sum": (splits, weights, 3),
        "_weights_gradient": (grad, splits, 3),
        "_splits_gradient": (grad, weights, weights),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_function_has_its_kernel(kernels, dtype):
    fake = kernels()
    for name, values in arguments(dtype).items():
        assert getattr(mixing, name)(*values).item() == 42
    assert fake.calls == list(FUNCTIONS)


def test_cpu_and_float64_and_small_maps_are_left_to_pytorch(kernels, monkeypatch):
    fake = kernels()
    x = torch.rand(2, 6, 3, 4)
    mixing.global_average(x.double())
    mixing.weighted_sum(x, torch.rand(2, 6, 1, 1).double(), 1)
    monkeypatch.setattr(fused, "MIN_VALUES", x.numel() + 1)
    mixing.global_average(x)
    monkeypatch.setattr(fused, "MIN_VALUES", x.numel())
    monkeypatch.setattr(fused, "is_on_gpu", lambda x: x.is_cuda)
    mixing.global_average(x)
    assert fake.calls == []
    monkeypatch.setattr(fused, "is_on_gpu", lambda x: True)
    mixing.global_average(x)
    assert fake.calls == ["global_average"]


def test_tensors_on_different_devices_are_left_to_pytorch(kernels):
    fake = kernels()
    with pytest.raises(RuntimeError, match="device"):
        mixing.weighted_sum(torch.rand(2, 6, 3, 4), torch.rand(2, 6, 1, 1, device="meta"), 3)
    assert fake.calls == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # forward mode uses it
def test_whatever_records_or_transforms_is_left_to_pytorch(kernels):
    """The kernels have no derivative of their own: they would cut the graph without a word."""
    fake = kernels()
    x, weights = torch.rand(2, 3, 3, 4), torch.rand(2, 3, 1, 1)
    assert mixing.global_average(x.clone().requires_grad_()).requires_grad
    assert mixing.weighted_sum(x, weights.clone().requires_grad_(), 1).requires_grad
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(mixing.global_average(forward_ad.make_dual(x, x))).tangent is not None
    torch.func.vmap(mixing.global_average)(x[None])
    torch.func.grad(lambda x: mixing.global_average(x).sum())(x)
    with torch._subclasses.FakeTensorMode() as mode:
        mixing.global_average(mode.from_tensor(x))
    assert fake.calls == []
    with torch.no_grad():
        mixing.global_average(x.clone().requires_grad_())
    assert fake.calls == ["global_average"]


def test_a_second_derivative_goes_through_operations_that_autograd_knows(kernels):
    kernels(answers=False)
    layer = randomize(SplitAttention(4, radix=2).double())
    x = images(2, 3, channels=4).requires_grad_()
    assert torch.autograd.gradgradcheck(layer, (x,), fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*is deprecated:FutureWarning")
def test_compilers_and_exporters_see_the_plain_form(kernels, monkeypatch):
    fake = kernels()
    layer = randomize(SplitAttention(8, radix=2).double()).float().eval()
    x = images(2, 5, channels=8, dtype=torch.float32)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")(x)
        exported = torch.export.export(layer, (x,)).module()(x)
        traced = torch.jit.trace(layer, (x,), check_trace=False)(x)
        assert fake.calls == []
        monkeypatch.setattr(fused, "load_kernels", lambda: None)
        for out in (compiled, exported, traced):
            assert_same(out, layer(x), 1e-6)
    torch.compiler.reset()


def test_where_a_kernel_has_no_answer_pytorch_has_one(kernels):
    fake = kernels(answers=False)
    for name, values in arguments().items():
        assert torch.equal(getattr(mixing, name)(*values), getattr(mixing, name).__wrapped__(*values))
    assert set(fake.calls) == set(FUNCTIONS)


def test_a_kernel_that_fails_is_reported_once_and_not_tried_again(kernels):
    fake = kernels(error=RuntimeError("Triton Error [CUDA]:\nno kernel image"))
    message = r"RuntimeError: Triton Error \[CUDA\]: \[...\] no kernel image\. .*RESNEST_TRITON=0"
    values = arguments()
    with pytest.warns(RuntimeWarning, match=message) as caught:
        out = {name: getattr(mixing, name)(*given) for name, given in values.items()}
    for name, given in values.items():
        assert torch.equal(out[name], getattr(mixing, name).__wrapped__(*given))
    assert len(caught) == 1
    assert fake.calls == ["global_average"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("assert", 710)], ids=["memory", "device"]
)
def test_errors_that_pytorch_would_have_too_are_passed_on(kernels, error):
    fake = kernels(error=error)
    for _ in range(2):
        with pytest.raises(type(error)):
            mixing.global_average(torch.rand(2, 6, 3, 4))
    assert len(fake.calls) == 2


@needs_triton
@pytest.mark.parametrize(("value", "used"), [("0", False), ("1", True), (None, True)])
def test_the_environment_turns_them_off(value, used):
    env = {name: text for name, text in os.environ.items() if name != "RESNEST_TRITON"}
    code = "import sys; from resnest_timm.kernels import fused; "
    code += f"print(fused.load_kernels() is not None, '{OURS}' in sys.modules)"
    env |= {} if value is None else {"RESNEST_TRITON": value}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == [str(used), str(used)]


def test_without_triton_pytorch_is_used_and_nothing_is_said():
    code = (
        "import sys, torch; from resnest_timm.kernels import fused, mixing; sys.modules['triton'] = None; "
        "fused.is_on_gpu, fused.MIN_VALUES = lambda x: True, 0; "
        "print(mixing.global_average(torch.ones(1, 1, 2, 2)).item(), fused.load_kernels())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1.0 None", "")


def test_on_the_cpu_the_kernels_are_not_imported():
    """The only module of ours that imports Triton; parts of PyTorch do so too."""
    code = (
        "import sys, torch, resnest_timm; x = torch.rand(2, 4, 5, 5, requires_grad=True); "
        "resnest_timm.SplitAttention(4)(x).sum().backward(); "
        f"print('resnest_timm.kernels.fused' in sys.modules, '{OURS}' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"


# --- on a GPU --------------------------------------------------------------------------------------------------------

ON_GPU = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.004}


@pytest.fixture
def cuda(monkeypatch):
    """A GPU on which the kernels take maps of any size, and a count of what they were asked."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    monkeypatch.setattr(fused, "MIN_VALUES", 0)
    monkeypatch.setattr(fused, "_failed", False)
    kernels = fused.load_kernels()
    assert kernels is not None
    calls = []
    for name in FUNCTIONS:
        original = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, _f=original, _n=name: calls.append(_n) or _f(*a))
    return calls


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", list(ON_GPU), ids=str)
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (40, 7), (3, 5)])
@pytest.mark.parametrize("radix", [1, 2, 3, 4])
def test_kernels_on_a_gpu_equal_the_plain_functions_in_float64(cuda, radix, channels, size, dtype, memory_format):
    splits = torch.randn(4, radix * channels, size, size).to(dtype).to("cuda", memory_format=memory_format)
    grad = torch.randn(4, channels, size, size).to(dtype).to("cuda", memory_format=memory_format)
    every = torch.rand(4, radix * channels, 1, 1).to("cuda", dtype)
    cases = {
        "global_average": (splits,),
        "weighted_sum": (splits, every[:, :channels] if radix == 2 else every, radix),
        "_weights_gradient": (grad, splits, radix),
        "_splits_gradient": (grad, every, every),
    }
    for name, values in cases.items():
        plain = getattr(mixing, name).__wrapped__
        expected = plain(*(v.double() if torch.is_tensor(v) else v for v in values))
        actual = getattr(mixing, name)(*values)
        assert actual.dtype == dtype
        assert torch.equal(actual, getattr(mixing, name)(*values))
        assert actual.is_contiguous(memory_format=memory_format) == expected.is_contiguous(memory_format=memory_format)
        assert_same(actual.double(), expected, ON_GPU[dtype])
    assert set(cuda) == set(FUNCTIONS)


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_a_network_on_a_gpu_has_the_outputs_and_gradients_of_the_cpu(cuda, memory_format):
    model = create("resnest14d", num_classes=10).train()
    x = images(4, 64)
    expected = run_model(model, x)
    fused_model = create("resnest14d", num_classes=10).train().float().to("cuda", memory_format=memory_format)
    out, gradients = run_on_gpu(fused_model, x.float().to("cuda", memory_format=memory_format), torch.float32)
    assert_same(out.cpu().double(), expected[0], 1e-3)
    scale = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in gradients.items():
        assert_same(gradient.cpu().double(), expected[1][name], 1e-3, scale)
    assert cuda.count("weights_gradient") == cuda.count("splits_gradient") == 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_training_step_in_reduced_precision_on_a_gpu(cuda, dtype):
    model = create("resnest14d", num_classes=10).train().float().to("cuda", memory_format=torch.channels_last)
    x = images(4, 64, dtype=torch.float32).to("cuda", memory_format=torch.channels_last)
    expected, _ = run_on_gpu(model, x, torch.float32)
    out, gradients = run_on_gpu(model, x, dtype)
    assert_same(out.float(), expected, 0.1)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert cuda.count("weights_gradient") == cuda.count("splits_gradient") == 8


def run_on_gpu(model, x, dtype):
    """As `helpers.run`, which draws its projection on the CPU, in autocast."""
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        out = model(x)
    projection = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(out)
    (out * projection).sum().backward()
    return out.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}
