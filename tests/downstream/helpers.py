"""What the tests of docs/how-to/downstream.md share: its examples as they run, and one optimisation step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.resnest import ResNestBottleneck
from torch import Tensor, nn

from resnest_timm import ResNeStBottleneck
from tests.examples import example

DOCUMENT = "docs/how-to/downstream.md"
SINGLE_IMAGE = "ignore:ResNeSt got one image in train mode:UserWarning"


def run_example(*names: str) -> dict[str, Any]:
    """What examples of the document define, run one after the other as they are written."""
    namespace: dict[str, Any] = {}
    for name in names:
        exec(compile(example(name, DOCUMENT), f"<{DOCUMENT}: {name}>", "exec"), namespace)
    return namespace


def assert_is_ours(body: nn.Module, released: dict[str, Tensor]) -> None:
    """The backbone is a resnest50d of our blocks, not timm's, and has the released weights, statistics included."""
    assert sum(isinstance(module, ResNeStBottleneck) for module in body.modules()) == 3 + 4 + 6 + 3
    assert not any(isinstance(module, ResNestBottleneck) for module in body.modules())
    state = body.state_dict()  # frozen norms count no batches
    expected = {key for key in released if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}
    assert {key for key in state if not key.endswith("num_batches_tracked")} == expected
    assert [key for key in expected if not torch.equal(state[key], released[key])] == []


def assert_learns(model: nn.Module, body: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> None:
    """One step of SGD lowers the loss on its own batch, and reaches the ResNeSt's first convolution.

    The step is what would lower a linear loss by 2 % (Polyak's rule), so no learning rate is tuned to a model; random
    numbers, of dropout and of sampled boxes, are the same before and after.
    """
    model.train()
    torch.manual_seed(0)
    before = loss_of(model)
    before.backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    first = body.get_parameter("conv1.0.weight").grad
    assert first is not None
    assert bool(first.isfinite().all())
    assert float(first.abs().max()) > 0
    squares = sum(float(parameter.grad.square().sum()) for parameter in parameters)
    torch.optim.SGD(parameters, lr=0.02 * float(before.detach()) / squares).step()
    torch.manual_seed(0)
    with torch.no_grad():
        after = loss_of(model)
    assert 0.97 < float(after / before.detach()) < 0.997  # 0.98 but for what is not linear
