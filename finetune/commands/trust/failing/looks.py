"""Test images that look alike to the model: clusters of the features that its classifier gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.evaluation import slices
from finetune.evaluation.comparing.judged import Looking
from finetune.evaluation.slices import Slice
from finetune.networks.feature_data import classifier_inputs
from finetune.networks.head_start import linear_classifier
from finetune.task import Task

SECONDS = 20.0
"""That the features may take; where they would take longer, there are no clusters."""
PER_CLUSTER, MOST = 25, 8
"""Images for each cluster at least, on average; and how many clusters at most."""


def alike(
    task: Task, network: nn.Module, batches: Sequence[Callable[[], Any]], device: torch.device, seed: int
) -> Iterator[Slice]:
    """A slice for each cluster; none where neither a linear layer nor the task says what the features are.

    Args:
        task: Of the network.
        network: In evaluation mode, on `device`.
        batches: Each makes normalised float32 `[B, 3, H, W]` on the device, or a list of `[3, h, w]`.
        device: Where to compute.
        seed: Of the clusters' first centres.
    """
    with _asked(task, network) as ask:
        features = _features(ask, batches) if ask is not None else None
    if features is None or len(features) < 2 * PER_CLUSTER:
        return
    labels = slices.clusters(features, min(MOST, len(features) // PER_CLUSTER), seed)
    for label in range(int(labels.max()) + 1):
        yield Slice("looks", f"cluster {label + 1}", labels == label)


@contextmanager
def _asked(task: Task, network: nn.Module) -> Iterator[Callable[[Any], Tensor] | None]:
    """A function of a batch to its features `[B, ...]`; None where there is none."""
    classifier = linear_classifier(network)
    if classifier is not None:
        with classifier_inputs(network, classifier) as ask:
            yield ask
        return
    looking = task if isinstance(task, Looking) else None

    @torch.inference_mode()
    def look(batch: Any) -> Tensor:
        assert looking is not None
        parts = [one[None] for one in batch] if isinstance(batch, list) else [batch]
        return torch.cat([looking.looks(network, part) for part in parts])

    yield look if looking is not None else None


def _features(ask: Callable[[Any], Tensor], batches: Sequence[Callable[[], Any]]) -> np.ndarray | None:
    found: list[Any] = []
    started = time.monotonic()
    try:
        for make in batches:
            found.append(ask(make()).flatten(1).float().cpu().numpy())
            if (time.monotonic() - started) / len(found) * len(batches) > SECONDS:
                return None
    except ModelError:  # its logits are not what this layer gives
        return None
    return np.concatenate(found)
