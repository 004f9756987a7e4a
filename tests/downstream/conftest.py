"""ImageNet weights for `pretrained=True`, without a network."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

import resnest_timm  # noqa: F401
from tests.resnest_timm.helpers import materialize

REVISION = "0" * 40


@pytest.fixture(scope="session")
def released():
    """Random weights where the Hub's client keeps `timm/resnest50d.in1k`, as if they had been downloaded before."""
    model = materialize(timm.create_model("resnest50d", device="meta"), torch.float32)
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--timm--resnest50d.in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    return state
