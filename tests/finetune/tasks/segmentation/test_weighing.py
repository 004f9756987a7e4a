"""What an image is worth, and the scores of any weighting, against scikit-learn's on all pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from finetune.tasks.segmentation.judged import weighing
from finetune.tasks.segmentation.scores import VOID, count

NAMES = ("ground", "leaf", "stem")


@pytest.fixture(scope="module")
def drawn():
    """Masks and answers of 12 images; the last is void."""
    rng = np.random.default_rng(0)
    masks, answers, counts = [], [], []
    for number in range(12):
        mask = rng.integers(0, 2 if number % 2 else 3, (8, 10)).astype(np.uint8)
        mask[0] = VOID
        if number == 11:
            mask[:] = VOID
        logits = torch.from_numpy(rng.normal(size=(3, 8, 10)).astype(np.float32))
        logits += 1.5 * torch.from_numpy(np.stack([mask == label for label in range(3)])).float()
        masks.append(mask)
        answers.append(logits.argmax(dim=0).numpy())
        counts.append(count(logits, torch.from_numpy(mask)))
    return masks, answers, counts


def pixels(masks, answers):
    true = np.concatenate([mask[mask != VOID] for mask in masks])
    said = np.concatenate([answer[mask != VOID] for mask, answer in zip(masks, answers, strict=True)])
    return true, said


def test_an_image_is_worth_the_mean_iou_of_the_classes_that_it_shows(drawn):
    masks, answers, counts = drawn
    judged = weighing.judged(weighing.kept([counts[:5], counts[5:]]), NAMES)
    for place in range(11):
        true, said = pixels(masks[place : place + 1], answers[place : place + 1])
        expected = jaccard_score(true, said, labels=np.unique(true), average="macro")
        assert judged.values[place] == pytest.approx(expected)
        assert judged.true[place] == ", ".join(NAMES[label] for label in np.unique(true))
    assert np.isnan(judged.values[11])
    assert judged.true[11] == "none"


def test_the_scores_of_a_weighting_are_those_of_repeated_images(drawn):
    masks, answers, counts = drawn
    judged = weighing.judged(weighing.kept([counts]), NAMES)
    weights = np.random.default_rng(1).integers(0, 3, (4, 12))
    scores = judged.scores(weights)
    for row, times in enumerate(weights):
        chosen = np.repeat(np.arange(12), times)
        true, said = pixels([masks[n] for n in chosen], [answers[n] for n in chosen])
        assert scores["mean_iou"][row] == pytest.approx(jaccard_score(true, said, average="macro"))
        assert scores["pixel_accuracy"][row] == pytest.approx((true == said).mean())
    part = judged.of(np.array([7, 2]))
    true, said = pixels([masks[7], masks[2]], [answers[7], answers[2]])
    assert part.once()["mean_iou"] == pytest.approx(jaccard_score(true, said, average="macro"))
