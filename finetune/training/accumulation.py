"""Weights of the micro-batches whose gradients make up one optimizer step."""

from __future__ import annotations

from torch import Tensor

Count = int | Tensor
"""Images over all processes: a number on one process; a tensor on the device, which nobody waits for, on several."""


class StepWeights:
    """Makes the gradient of an optimizer step that of the whole batch, on any number of processes and micro-batches.

    Micro-batch i has `n_i` images on this process and `N_i` on all. Lightning takes the mean gradient over `parts`
    micro-batches and DDP the mean over `world` processes; wanted is the sum of `n_i / sum(N)` times the gradients.
    While the first ones go through, `sum(N)` is not known yet: each is weighted by `n_i * world / N_0`, and once,
    before the step, the gradients are multiplied by `parts * N_0 / sum(N)`.
    """

    def __init__(self) -> None:
        self.first: Count | None = None
        self.total: Count = 0
        self.seen = 0

    def weight(self, here: int, everywhere: Count, world: int) -> float | Tensor:
        """Weight of the mean loss of a micro-batch that has `here` images on this process."""
        if self.first is None:
            self.first = everywhere
        self.total, self.seen = self.total + everywhere, self.seen + 1
        return here * world / self.first

    def correction(self, parts: int) -> float | Tensor | None:
        """What to multiply the step's gradients by, if by anything; begins the next step.

        Args:
            parts: What Lightning has divided them by.
        """
        first, total, alone = self.first, self.total, self.seen == parts == 1
        self.first, self.total, self.seen = None, 0, 0
        if first is None or alone:
            return None
        factor = parts * first / total
        return None if isinstance(factor, float) and factor == 1.0 else factor
