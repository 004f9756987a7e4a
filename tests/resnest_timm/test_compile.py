"""The networks trace whole, with a batch of any size: `torch.compile` and `torch.export`."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import resnest_timm  # noqa: F401
from tests.resnest_timm.helpers import (
    SHALLOW,
    Run,
    assert_same,
    assert_same_run,
    create,
    images,
    norms,
    norms_of_single_values,
    run_model,
)

TRACED = ("resnest14d", "resnest50_fast_1s1x64d", "resnest50d_4s2x40d")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    logging.disable(logging.DEBUG)  # pytest would keep every line of the compiler's trace
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    logging.disable(logging.NOTSET)


def run_compiled(compiled: torch.nn.Module, x: torch.Tensor) -> Run:
    out, gradients = run_model(compiled, x)
    return out, {name.removeprefix("_orig_mod."): gradient for name, gradient in gradients.items()}


def test_compiles_whole_and_a_second_time_for_all_other_batches() -> None:
    model, counter = create("resnest14d", **SHALLOW).train(), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (3, 2, 5):
        x = images(batch, 48)
        assert_same_run(run_compiled(compiled, x), run_model(model, x), 1e-6 if batch == 2 else 1e-9)
    assert counter.frame_count == 2


def test_gradients_are_traced_too() -> None:
    model, x = create("resnest50d_4s2x40d", **SHALLOW).train(), images(3, 48)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_run(run_compiled(compiled, x), run_model(model, x))


def test_compiles_in_eval_mode() -> None:
    model, counter = create("resnest14d", **SHALLOW).eval(), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        x = images(batch, 48)
        assert_same(compiled(x), model(x))
    assert counter.frame_count == 2


def test_compiles_one_image_in_train_mode() -> None:
    """Without the warning, which would break the graph, and with the running statistics."""
    model, x = create("resnest14d", **SHALLOW), images(1, 32)
    single = norms_of_single_values(model, 32)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    actual = run_compiled(torch.compile(model.train(), fullgraph=True, backend="eager"), x)
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, before[key]) == (key.rpartition(".")[0] in single), key
    for key, norm in norms(model).items():
        norm.train(key not in single)
    assert_same_run(actual, run_model(model, x))


@pytest.mark.parametrize(
    ("name", "train"), [*((name, False) for name in TRACED), ("resnest14d", True)], ids=lambda v: str(v)
)
def test_exports_with_a_dynamic_batch(name: str, train: bool) -> None:
    model = create(name, **SHALLOW).train(train)
    smallest = 2 if train else 1
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    program = torch.export.export(model, (images(3, 48),), dynamic_shapes=({0: Dim("batch", min=smallest, max=64)},))
    for batch in (smallest, 3, 4):
        x = images(batch, 48)
        model.load_state_dict(before)
        assert_same(program.module()(x), model(x))
