"""What a segmentation network is trained by: mean losses of images, so that shares of a batch add up.

Each image counts once, whatever share of it is void: the gradient of a step is then the same on any number of devices
and micro-batches. Where a batch is normalised by its pixels or sums over its classes, as is common, it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.tasks.segmentation.scores import VOID
from finetune.training.imbalance import class_shares, class_weights


class SegmentationLoss(nn.Module):
    """Mean over images of the mean cross-entropy of their pixels, with the mean Dice loss of their classes if asked.

    Args:
        num_classes: K.
        kind: `ce`, or `ce-dice`: the sum of both.
        pixels: Training pixels of each class.
        remedy: For unequal classes, see `finetune.training.imbalance`; here of pixels.
        label_smoothing: Share of each target that is spread over all classes.

    Source of the Dice loss: Milletari et al., "V-Net", https://arxiv.org/abs/1606.04797, without squares.
    """

    weights: Tensor | None
    adjustment: Tensor | None

    def __init__(
        self,
        num_classes: int,
        kind: str = "ce",
        pixels: Sequence[int] = (),
        remedy: str = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.kind, self.smoothing = num_classes, kind, label_smoothing
        weighted, adjusted = remedy == "class-weights", remedy == "logit-adjustment"
        # Not in state dicts: made from the counts again.
        self.register_buffer("weights", class_weights(pixels) if weighted else None, persistent=False)
        self.register_buffer("adjustment", class_shares(pixels).log() if adjusted else None, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar.

        Args:
            logits: `[B, K, H, W]`.
            targets: Class indices and `VOID`, `[B, H, W]`.
        """
        targets, logits = targets.long(), logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment[:, None, None]
        valid = targets != VOID
        losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=VOID, label_smoothing=self.smoothing)
        if self.weights is not None:  # 1 on average over the training pixels, see `finetune.training.imbalance`
            losses = losses * self.weights[targets.where(valid, 0)]
        of_images = (losses * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        if self.kind == "ce-dice":
            of_images = of_images + dice(logits, targets)
        return of_images.mean()


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 `[B]`: one minus the soft Dice of each class that an image shows, on average.

    Args:
        logits: float32 `[B, K, H, W]`.
        targets: int64 `[B, H, W]`.
    """
    valid = targets != VOID
    shares = logits.softmax(dim=1) * valid[:, None]
    true = F.one_hot(targets.where(valid, 0), logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
    both, sizes = (shares * true).sum(dim=(2, 3)), (shares + true).sum(dim=(2, 3))
    present = true.sum(dim=(2, 3)) > 0
    lost = torch.where(present, 1 - 2 * both / sizes.clamp(min=1e-6), 0)
    return lost.sum(dim=1) / present.sum(dim=1).clamp(min=1)
