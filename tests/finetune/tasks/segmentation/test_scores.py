"""Counts, scores, loss and intervals against independent implementations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from finetune.tasks.segmentation import judging, loss, scores
from finetune.tasks.segmentation.answering import palette
from finetune.tasks.segmentation.judged import assessment, collector
from finetune.tasks.segmentation.scores import VOID

K = 7


def images(count=5, seed=0):
    """Logits of some images, and masks of another size that lack the last class, with void."""
    random = torch.Generator().manual_seed(seed)
    for number in range(count):
        size = (40 + 3 * number, 70 - number)
        mask = torch.randint(0, K - 1, size, generator=random).to(torch.uint8)
        mask[:5] = VOID
        yield torch.randn(K, 32, 64, generator=random), mask


def whole(logits, mask):
    return F.interpolate(logits[None], size=mask.shape, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("block", [2**25, 2 * 40 * 70])
def test_scores_are_scikit_learn_s_on_whole_images(monkeypatch, block):
    monkeypatch.setattr(scores, "_BLOCK", block)  # of all classes at once, and of two at a time
    metric, true, answered, losses = scores.SegmentationScores(K), [], [], 0.0
    for logits, mask in images():
        metric.update([scores.count(logits, mask)])
        scaled, valid = whole(logits, mask), mask != VOID
        assert torch.equal(scores.largest(logits, mask.shape).long(), scaled.argmax(dim=0))
        true.append(mask[valid].numpy())
        answered.append(scaled.argmax(dim=0)[valid].numpy())
        losses += F.cross_entropy(scaled[:, valid].T.double(), mask[valid].long(), reduction="sum").item()
    y, p, shown = np.concatenate(true), np.concatenate(answered), list(range(K - 1))
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(
        {
            "mean_iou": jaccard_score(y, p, labels=shown, average="macro"),
            "pixel_accuracy": accuracy_score(y, p),
            "mean_accuracy": recall_score(y, p, labels=shown, average="macro"),
            "macro_dice": f1_score(y, p, labels=shown, average="macro"),
            "loss": losses / len(y),
        },
        rel=1e-6,
    )
    assert metric.confusion.sum() == len(y)
    assert metric.confusion.dtype == torch.int64


def test_an_image_of_nothing_but_void_counts_nothing():
    found = scores.count(torch.randn(K, 32, 32), torch.full((40, 40), VOID, dtype=torch.uint8))
    assert found.pairs.shape == (0, 3)
    assert found.logits.shape == (0, K)
    assert found.loss == 0


def test_the_sample_is_of_the_image_s_own_pixels():
    logits, mask = next(iter(images(1)))
    found = scores.count(logits, mask)
    scaled, valid = whole(logits, mask), mask != VOID
    every = {tuple(row.tolist()) for row in scaled[:, valid].T}
    assert len(found.logits) == 1024
    assert all(tuple(row.tolist()) in every for row in found.logits)
    again = scores.count(logits, mask)
    assert torch.equal(found.logits, again.logits)


def predictions(seed=0, count=6):
    found = [scores.count(logits, mask) for logits, mask in images(count, seed)]
    return collector.together(found, K)


def test_processes_parts_are_one_split():
    found = [scores.count(logits, mask) for logits, mask in images(5)]
    parts = [collector.together(found[:2], K), collector.together([], K), collector.together(found[2:], K)]
    joined, expected = collector.joined(parts), collector.together(found, K)
    assert torch.equal(joined.pairs, expected.pairs)
    assert torch.equal(joined.logits, expected.logits)
    assert joined.images == 5


def test_intervals_are_those_of_images_drawn_again():
    found = predictions()
    ends = assessment.bootstrap(found, seed=3, resamples=400)
    counts = found.counts()
    rng = np.random.default_rng(3)
    values = []
    for _ in range(400):
        drawn = np.repeat(np.arange(6), rng.multinomial(6, np.full(6, 1 / 6)))
        values.append(scores.of_counts(*(of[drawn].sum(axis=0)[None] for of in counts))["mean_iou"][0])
    assert ends["mean_iou"] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert ends["mean_iou"][0] < ends["mean_iou"][1]


def test_what_is_said_of_classes_and_the_floor():
    validation, test = predictions(1), predictions(2)
    names = [f"c{i}" for i in range(K)]
    entry = assessment.assess(validation, test, np.array([9, 50, 9, 9, 9, 9, 0]), names, seed=0)
    assert entry["absent"]["test"] == ["c6"]
    assert entry["per_class"]["test"][6]["iou"] is None
    rows = entry["per_class"]["test"][:6]
    right, true, answered = (of.sum(axis=0)[None] for of in test.counts())
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(
        scores.of_counts(right, true, answered)["mean_iou"][0]
    )
    floor = entry["majority_class"]
    assert floor["class"] == "c1"
    share = true[0, 1] / true.sum()
    assert floor["test"] == pytest.approx(share / 6)  # the IoU of c1 is its share; that of the five others 0
    assert floor["pixel_accuracy"]["test"] == pytest.approx(share)
    assert sum(map(sum, entry["confusion"]["test"])) == true.sum()
    assert entry["calibration"]["test"]["loss_calibrated"] < entry["calibration"]["test"]["loss"]


# --- the training's loss


@pytest.mark.parametrize("options", [{}, {"kind": "ce-dice"}, {"pixels": [3, 9], "remedy": "class-weights"}])
def test_shares_of_a_batch_add_up(options):
    criterion = loss.SegmentationLoss(2, **options)
    torch.manual_seed(0)
    logits = torch.randn(5, 2, 8, 8, requires_grad=True)
    masks = torch.randint(0, 2, (5, 8, 8))
    masks[0, :6] = VOID
    masks[1] = VOID
    (together,) = torch.autograd.grad(criterion(logits, masks), logits)
    parts = criterion(logits[:2], masks[:2]) * 2 / 5 + criterion(logits[2:], masks[2:]) * 3 / 5
    (apart,) = torch.autograd.grad(parts, logits)
    torch.testing.assert_close(together, apart)
    assert (together[1] == 0).all()
    assert (together[0, :, :6] == 0).all()


def test_cross_entropy_is_torch_s_and_dice_is_one_minus_the_f1_of_certain_answers():
    masks = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = loss.SegmentationLoss(3)(logits, masks)
    assert found.item() == pytest.approx(F.cross_entropy(logits, masks).item(), rel=1e-6)
    certain = F.one_hot(logits.argmax(dim=1), 3).permute(0, 3, 1, 2) * 1000.0
    expected = [
        1 - f1_score(mask.ravel(), answer.ravel(), average="macro")
        for mask, answer in zip(masks.numpy(), logits.argmax(dim=1).numpy(), strict=True)
    ]
    assert loss.dice(certain, masks).tolist() == pytest.approx(expected, abs=1e-5)


# --- other datasets, and colours


def test_classes_are_matched_by_name():
    table = judging.Renumbered(("Disc", "back ground"), ("back_ground", "disc", "square")).table
    assert table[[0, 1, VOID]].tolist() == [1, 0, VOID]
    with pytest.raises(judging.ModelError, match=r"classes that are none of the model's: cat; the model has disc"):
        judging.Renumbered(("disc", "cat"), ("disc",))


def test_masks_are_indices_with_a_palette():
    mask = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    picture = palette.indexed(mask, 3)
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), mask)
    assert np.array_equal(np.asarray(picture.convert("RGB")), palette.painted(mask, 3))
    assert len({tuple(colour) for colour in palette.colours(150).tolist()}) == 150
    assert palette.shares(mask, ("a", "b", "c", "d")) == {"b": 0.5, "a": 0.25, "c": 0.25}
