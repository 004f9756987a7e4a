"""RoIAlign's gradient, against torchvision's own."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from finetune.tasks.detection.networks.pooling import pool


def boxes_of(generator, count, width, height):
    """Of all sizes, also beyond the edges, thinner than a pixel, and whole images."""
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height])
    sides = torch.exp(torch.rand(count, 2, generator=generator, dtype=torch.float64) * 6) - 0.9
    odd = torch.tensor([[0, 0, width, height], [-30, -9, 5, 7], [width - 3, 2, width + 40, 9], [4, 4, 4.2, 4.1]])
    return torch.cat([torch.cat([corners, corners + sides], dim=1), odd.double()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 2), (3, 1)])
def test_values_and_gradients_are_torchvisions(dtype, size, samples):
    generator = torch.Generator().manual_seed(0)
    module = MultiScaleRoIAlign(["0", "1", "2"], size, samples)
    sizes = [(200, 320), (192, 300)]
    shapes = {"0": (48, 80), "1": (24, 40), "2": (12, 20), "pool": (6, 10)}
    maps = {name: torch.randn(2, 8, *shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    boxes = [boxes_of(generator, 30, 320, 200).to(dtype), boxes_of(generator, 3, 300, 192).to(dtype)]
    found = {}
    for how in (module, lambda *given: pool(module, *given)):
        leaves = {name: one.clone().requires_grad_() for name, one in maps.items()}
        values = how(leaves, boxes, sizes)
        toward = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        (values * toward).sum().backward()
        found[how is module] = [values.detach(), *(leaves[name].grad for name in "012")]
        assert leaves["pool"].grad is None
    assert torch.equal(found[True][0], found[False][0])
    assert all(one.abs().sum() > 0 for one in found[True])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for theirs, ours in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


def test_no_box_gives_no_gradient_and_no_error():
    module = MultiScaleRoIAlign(["0"], 7, 2)
    leaf = torch.randn(1, 4, 8, 8, requires_grad=True)
    pool(module, {"0": leaf}, [torch.zeros(0, 4)], [(32, 32)]).sum().backward()
    assert not leaf.grad.any()
