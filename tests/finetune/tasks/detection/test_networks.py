"""Detectors: their parts are torchvision's, their losses its sums, and strangers get the same boxes."""

import itertools

import numpy as np
import pytest
import timm
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from finetune.errors import ModelError
from finetune.tasks.detection.networks import anchors, build, cascade, finding, losses
from finetune.tasks.detection.networks.draws import Draws
from finetune.tasks.detection.reads.masks import decoded
from tests.finetune.tasks.detection.small import small

DETECTORS = ("faster-rcnn", "mask-rcnn", "cascade-rcnn", "cascade-mask-rcnn", "fcos", "retinanet")
SIDE = 64


def detector(kind, **options):
    torch.manual_seed(0)
    return small(build.build("resnest14d", kind, 3, pretrained=False, image_size=SIDE, **options))


def target(boxes, labels, side=SIDE):
    masks = torch.zeros(len(labels), side, side, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def images(count=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, SIDE, SIDE, generator=generator) for _ in range(count)]


SOME = [target([(5, 5, 40, 50), (20, 20, 30, 30)], [0, 2]), target([(10, 4, 60, 30)], [1])]
NONE = [target([], []), target([], [])]


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.slow(seconds=15)
def test_every_parameter_has_a_gradient_with_and_without_objects(kind):
    model = detector(kind).train()
    for truth in (SOME, NONE):
        model.zero_grad()
        parts = losses.of_batch(model, images(), truth, Draws(images(), 0))
        torch.stack([part.total / max(1, part.number) for part in parts.values()]).sum().backward()
        assert [name for name, of in model.named_parameters() if of.grad is None] == []
        assert all(torch.isfinite(of.grad).all() for of in model.parameters())


class Fixed(BalancedPositiveNegativeSampler):
    """torchvision's sampler in the place of ours, taking what ours takes."""

    def __init__(self, of, draws):
        super().__init__(of.batch_size_per_image, of.positive_fraction)
        self.draws = draws

    def __call__(self, labels):
        taken = self.draws.sample(labels, self)
        masks = [
            torch.zeros_like(one, dtype=torch.uint8).scatter_(0, places, 1)
            for one, places in zip(labels, taken, strict=True)
        ]
        return [m * (one >= 1) for m, one in zip(masks, labels, strict=True)], [
            m * (one == 0) for m, one in zip(masks, labels, strict=True)
        ]


@pytest.mark.parametrize("kind", ["mask-rcnn", "fcos", "retinanet"])
@pytest.mark.slow(seconds=15)
def test_losses_are_torchvision_s(kind):
    """Its own forward in train mode, on images of the same size, with the same anchors and regions drawn."""
    model = detector(kind).train()
    first = 0 if kind in ("fcos", "retinanet") else 1
    parts = losses.of_batch(model, images(), SOME, Draws(images(), 0))
    ours = {name: float((part.total / part.number).detach()) for name, part in parts.items()}
    if first:
        draws = Draws(images(), 0)
        model.rpn.fg_bg_sampler = Fixed(model.rpn.fg_bg_sampler, draws)
        model.roi_heads.fg_bg_sampler = Fixed(model.roi_heads.fg_bg_sampler, draws)
    model.transform.normalize = lambda image: image
    theirs = model(images(), [dict(one, labels=one["labels"] + first) for one in SOME])
    assert sorted(ours.values()) == pytest.approx(sorted(float(loss.detach()) for loss in theirs.values()), rel=1e-4)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.slow(seconds=10)
def test_a_stranger_s_forward_finds_the_same(kind):
    model = detector(kind).eval()
    pixels = torch.rand(3, SIDE, SIDE + 20, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(of)[:, None, None] for of in (model.layout.image_mean, model.layout.image_std))
    with torch.inference_mode():
        (theirs,) = model([pixels])
        ours = finding.find(model, (pixels - mean) / std, tuple(pixels.shape[-2:]))
    assert len(ours["scores"]) > 0
    assert torch.allclose(theirs["boxes"], ours["boxes"], atol=1e-4)
    assert torch.equal(theirs["labels"] - model.layout.background, ours["labels"])
    if model.layout.masks:
        drawn = np.stack([decoded(rle) for rle in ours["rles"]])
        assert (drawn == (theirs["masks"][:, 0] >= 0.5).numpy()).all()


def test_a_detector_that_comes_back_from_its_layout_is_the_same():
    model = detector("fcos").eval()
    from finetune.tasks.detection.networks.layout import Layout

    again = build.assemble(Layout.from_json(model.layout.to_json())).eval()
    again.load_state_dict(model.state_dict())
    assert again.layout == model.layout


def test_draws_depend_on_the_image_and_the_epoch_alone():
    one, two = images()
    labels = torch.cat([torch.ones(300), torch.zeros(700)])
    sampler = BalancedPositiveNegativeSampler(256, 0.5)
    alone = Draws([two], 0, 1).sample([labels], sampler)[0]
    second = Draws([one, two], 0, 1).sample([labels, labels], sampler)
    assert torch.equal(alone, second[1])
    assert not torch.equal(alone, second[0])
    assert not torch.equal(alone, Draws([two], 0, 2).sample([labels], sampler)[0])
    assert (labels[alone] == 1).sum() == 128
    assert len(alone) == 256


# --- the backbone's weights ------------------------------------------------------------------------------------------


def test_all_weights_of_the_backbone_arrive():
    whole = timm.create_model("resnest14d", num_classes=5)
    body = timm.create_model("resnest14d", features_only=True, out_indices=(1, 2, 3, 4))
    build.take(body, whole)
    maps = body.eval()(torch.ones(1, 3, SIDE, SIDE))
    assert torch.allclose(maps[-1], whole.eval().forward_features(torch.ones(1, 3, SIDE, SIDE)), atol=1e-5)


def test_weights_that_do_not_arrive_are_an_error():
    body = timm.create_model("resnest26d", features_only=True)
    with pytest.raises(ModelError, match=r"weights of the backbone's maps are not among the model's own"):
        build.take(body, timm.create_model("resnest14d"))


def test_a_model_without_maps_is_refused():
    with pytest.raises(ModelError, match="a feature pyramid needs maps at 1/4, 1/8, 1/16, 1/32"):
        build.build("test_vit", "faster-rcnn", 2, pretrained=False)


# --- anchors ---------------------------------------------------------------------------------------------------------


def test_anchors_fit_small_and_long_objects():
    layout = detector("faster-rcnn").layout
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal([np.log(6), np.log(30)], 0.05, (200, 2)))
    made = anchors.fitted(layout, sides)
    assert made.anchor_sizes[0][0] < 16
    assert all(3 < ratio < 8 for ratio in made.aspect_ratios)
    assert anchors.shape_overlap(made, sides).mean() > anchors.shape_overlap(layout, sides).mean() + 0.2


def test_recall_of_anchors_is_that_of_all_of_them_laid_out():
    layout = detector("faster-rcnn").layout
    there = torch.tensor([[0.0, 0, 32, 32], [0, 0, 2, 60]])  # one like an anchor, one like none
    assert anchors.reached(layout, [there, torch.zeros(0, 4)], [(SIDE, SIDE)] * 2) == 0.5


# --- the cascade -----------------------------------------------------------------------------------------------------


def test_the_cascade_is_three_heads_one_after_the_other():
    """Against a reference of its own: no torchvision postprocessing, box by box."""
    model = detector("cascade-rcnn").eval()
    heads = model.roi_heads
    features = {str(n): torch.randn(1, 256, 16 // 2**n, 16 // 2**n) for n in range(4)}
    boxes = torch.tensor([[4.0, 4, 30, 30], [10, 20, 60, 50]])
    with torch.inference_mode():
        current, summed = boxes, torch.zeros(2, 4)
        for stage, weights in enumerate(cascade.WEIGHTS):
            pooled = heads.box_roi_pool(features, [current], [(SIDE, SIDE)])
            hidden = heads.box_head[stage](pooled)
            summed += heads.box_predictor[stage].cls_score(hidden).softmax(1) / 3
            delta = heads.box_predictor[stage].bbox_pred(hidden)
            moved = []
            for (x0, y0, x1, y1), row in zip(current.tolist(), delta.tolist(), strict=True):
                dx, dy, dw, dh = (value / weight for value, weight in zip(row, weights, strict=True))
                w, h = x1 - x0, y1 - y0
                cx, cy = x0 + w / 2 + dx * w, y0 + h / 2 + dy * h
                w, h = w * np.exp(dw), h * np.exp(dh)
                moved.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            current = torch.tensor(moved, dtype=torch.float32).clamp(0, SIDE)
        (found,), _ = heads(features, [boxes], [(SIDE, SIDE)])
    expected = {
        (label, round(float(summed[i, label]), 4)): current[i] for i, label in itertools.product(range(2), range(1, 4))
    }
    assert len(found["scores"]) > 0
    for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
        assert torch.allclose(box, expected[int(label), round(float(score), 4)].float(), atol=1e-3)


def test_later_heads_are_taught_at_stricter_overlaps():
    heads = detector("cascade-rcnn").roi_heads
    near = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([2])}
    boxes = [torch.tensor([[0.0, 0, 10, 5.5], [0, 0, 10, 6.5], [0, 0, 10, 7.5]])]  # overlaps 0.55, 0.65, 0.75
    labels = [losses._choose(heads, boxes, [near], matcher, None).labels[0].tolist() for matcher in heads.matchers]
    assert labels == [[2, 2, 2], [0, 2, 2], [0, 0, 2]]


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_the_coarsest_levels_are_float32_in_mixed_precision_too(kind):
    coarser = detector(kind).backbone.fpn.extra_blocks
    maps = [torch.randn(1, 256, side, side) for side in (8, 4, 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = [one.bfloat16() for one in maps]
        found, names = coarser(half, half, ["0", "1", "2"])
    assert names[-2:] == ["p6", "p7"]
    assert [one.dtype for one in found[-2:]] == [torch.float32] * 2
    assert found[-1].shape[-1] == 1
