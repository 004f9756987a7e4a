"""The inference form of a model that was finetuned here."""

import numpy as np
import timm
import torch
from torch import nn

from resnest_timm import optimize


def test_a_finetuned_model_has_an_inference_form(digits_run):
    """Its norms have the statistics of real images; the folder holds a stock architecture and loads as ours."""
    model = timm.create_model(f"local-dir:{digits_run / 'model'}", pretrained=True)
    assert type(model.layer1[0]).__module__ == "resnest_timm.block"
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3, 32, 32))).float()
    with torch.inference_mode():
        expected = model.eval()(images)
        largest = expected.abs().max()
        optimized = optimize(model, dtype=torch.float32)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in optimized.modules())
        assert (optimized(images) - expected).abs().max() <= 1e-4 * largest
        in_bf16 = optimize(model, dtype=torch.bfloat16)(images)
        assert 0 < (in_bf16 - expected).abs().max() <= 0.05 * largest
