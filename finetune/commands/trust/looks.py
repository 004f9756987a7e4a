"""Test images that look alike to the model: clusters of the features that its classifier gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.evaluation import slices
from finetune.evaluation.slices import Slice
from finetune.networks.feature_data import classifier_inputs
from finetune.networks.head_start import linear_classifier

SECONDS = 20.0
"""That the features may take; where they would take longer, there are no clusters."""
PER_CLUSTER, MOST = 25, 8
"""Images for each cluster at least, on average; and how many clusters at most."""


def alike(
    network: nn.Module, batches: Sequence[Callable[[], Tensor]], device: torch.device, seed: int
) -> Iterator[Slice]:
    """A slice for each cluster; none of a network that does not end in one linear layer.

    Args:
        network: In evaluation mode, on `device`.
        batches: Each makes normalised float32 `[B, 3, H, W]`.
        device: Where to compute.
        seed: Of the clusters' first centres.
    """
    features = _features(network, batches, device)
    if features is None or len(features) < 2 * PER_CLUSTER:
        return
    labels = slices.clusters(features, min(MOST, len(features) // PER_CLUSTER), seed)
    for label in range(int(labels.max()) + 1):
        yield Slice("looks", f"cluster {label + 1}", labels == label)


def _features(network: nn.Module, batches: Sequence[Callable[[], Tensor]], device: torch.device) -> np.ndarray | None:
    classifier = linear_classifier(network)
    if classifier is None:
        return None
    found: list[Any] = []
    started = time.monotonic()
    try:
        with classifier_inputs(network, classifier) as ask:
            for make in batches:
                found.append(ask(make().to(device)).flatten(1).float().cpu().numpy())
                if (time.monotonic() - started) / len(found) * len(batches) > SECONDS:
                    return None
    except ModelError:  # its logits are not what this layer gives
        return None
    return np.concatenate(found)
