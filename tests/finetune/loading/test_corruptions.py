"""Corruptions: of the right form, the same again, and each strength worse than the one before."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from finetune.loading.corruptions import CORRUPTIONS, STRENGTHS


@pytest.fixture(scope="module")
def photos():
    """Smooth shapes, as photographs have them."""
    drawn = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (functional.resize(drawn, [64, 64], antialias=True).clamp(0, 1) * 200).to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_is_further_from_the_photo(name, photos):
    before = photos.clone()
    found = [CORRUPTIONS[name](photos, strength, 3) for strength in STRENGTHS]
    assert all(one.shape == photos.shape and one.dtype == torch.uint8 for one in found)
    assert torch.equal(photos, before)
    assert torch.equal(found[0], CORRUPTIONS[name](photos, 1, 3))
    away = [(one.float() - photos.float()).square().mean().item() for one in found]
    assert 0 < away[0] < away[1] < away[2]


def test_contrast_keeps_the_mean_and_brightness_raises_it(photos):
    mean = photos.float().mean()
    assert CORRUPTIONS["contrast"](photos, 3, 0).float().mean() == pytest.approx(mean.item(), abs=1)
    assert CORRUPTIONS["brightness"](photos, 1, 0).float().mean() > mean + 10
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert (CORRUPTIONS["brightness"](black, 3, 0) == 128).all()
