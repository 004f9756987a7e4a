"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.errors import ModelError


def enable(model: nn.Module) -> None:
    """Turn it on.

    Raises:
        ModelError: The model has none.
    """
    name = getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
    problem = ModelError(
        f"--grad-checkpointing: {name} has no gradient checkpointing in timm: leave the flag out; a smaller "
        "--device-batch-size saves memory too"
    )
    switch = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise problem
    try:
        switch()
    except AssertionError as error:  # timm's way to say so
        raise problem from error


class RunningStatistics:
    """BatchNorm's running statistics, which can be paused.

    In the backward pass of a checkpointed model the norms see each batch a second time, and would count it twice. They
    must not stop tracking for that: recomputation has to save as many tensors as the forward pass did.

    Args:
        model: Whose BatchNorms, SyncBatchNorms included.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.paused: list[tuple[float | None, Tensor | None]] = []

    def pause(self) -> None:
        """Batches that come now leave no trace."""
        self.paused = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def resume(self) -> None:
        """As before."""
        for norm, (momentum, counter) in zip(self.norms, self.paused, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
