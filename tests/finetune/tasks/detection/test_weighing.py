"""What an image is worth by hand, and the scores of any weighting against COCO's on repeated images."""

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as coco_mask

from finetune.tasks.detection.judging import coco, weighing
from finetune.tasks.detection.judging.detected import Detected

NAMES = ("ant", "bee")
A, B, FAR = [0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 70, 70]


def entry(boxes, labels, scores=None, crowd=None):
    made = {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    if scores is not None:
        return made | {"scores": torch.tensor(scores)}
    sides = made["boxes"][:, 2:] - made["boxes"][:, :2]
    crowd = torch.tensor(crowd or [False] * len(labels))
    return made | {"iscrowd": crowd, "area": sides.prod(dim=1)}


IMAGES = [
    (entry([A, B], [0, 1], [0.9, 0.8]), entry([A, B], [0, 1])),  # both
    (entry([A, FAR], [0, 0], [0.9, 0.8]), entry([A, B], [0, 1])),  # one of two, and one that is not there
    (entry([A], [0], [0.1]), entry([A], [0])),  # below the threshold
    (entry([], [], []), entry([], [])),  # nothing, rightly
    (entry([A], [0], [0.9]), entry([], [])),  # nothing, wrongly
    (entry([A, B], [1, 1], [0.9, 0.9]), entry([A, B], [0, 1])),  # one of another class
    (entry([A], [0], [0.9]), entry([B, A], [1, 0], crowd=[False, True])),  # within a crowd: neither right nor wrong
]


def detected(images):
    return Detected.of([((100, 100), found, truth) for found, truth in images])


def test_an_image_is_worth_the_f1_of_what_is_shown():
    judged = weighing.judged(detected(IMAGES), NAMES, masks=False, threshold=0.5)
    assert judged.values == pytest.approx([1, 0.5, 0, 1, 0, 0.5, 0])
    assert judged.said[:5] == ["1 ant, 1 bee", "2 ant", "nothing", "nothing", "1 ant"]
    assert judged.true[3:7] == ["nothing", "nothing", "1 ant, 1 bee", "1 bee"]
    assert judged.shows.tolist()[5:] == [[True, True], [False, True]]
    lower = weighing.judged(detected(IMAGES), NAMES, masks=False, threshold=0.05)
    assert lower.values[2] == 1


def test_the_scores_of_a_weighting_are_coco_s_of_repeated_images():
    judged = weighing.judged(detected(IMAGES), NAMES, masks=False, threshold=0.5)
    weights = np.array([[1] * 7, [2, 0, 1, 1, 0, 3, 1], [0, 0, 0, 1, 1, 0, 0]])
    scores = judged.scores(weights)
    for row, times in enumerate(weights[:2]):
        repeated = [IMAGES[n] for n in np.repeat(np.arange(7), times)]
        expected = coco.scores(detected(repeated), 2, False)
        assert {name: of[row] for name, of in scores.items()} == pytest.approx(
            {name: expected[name] for name in scores}
        )
    assert scores["map"][2] == 0  # no object is there
    assert judged.of(np.array([1, 0])).once()["map"] == pytest.approx(
        coco.scores(detected(IMAGES[:2]), 2, False)["map"]
    )


def filled(boxes, size=100):
    """Masks as large as the boxes."""
    rles = []
    for x0, y0, x1, y1 in torch.as_tensor(boxes).reshape(-1, 4).int().tolist():
        mask = np.zeros((size, size), dtype=np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        rles.append(coco_mask.encode(mask))
    return rles


def test_where_there_are_masks_they_are_what_an_image_is_worth():
    """The second image's boxes are right, and the mask in one of them is that of a quarter of the object."""
    images = [
        (found | {"rles": filled(found["boxes"])}, true | {"rles": filled(true["boxes"])}) for found, true in IMAGES
    ]
    pairs = [(entry([A, B], [0, 1], [0.9, 0.8]) | {"rles": filled([A, [20, 20, 30, 30]])}, images[0][1])]
    judged = weighing.judged(detected([*images, *pairs]), NAMES, masks=True, threshold=0.5)
    assert judged.values == pytest.approx([1, 0.5, 0, 1, 0, 0.5, 0, 0.5])
    scores = judged.once()
    expected = coco.scores(detected([*images, *pairs]), 2, True)
    assert scores == pytest.approx({name: expected[name] for name in scores})
    assert scores["mask_map"] < scores["map"]
    assert weighing.judged(detected(pairs), NAMES, masks=False, threshold=0.5).values == pytest.approx([1])


def test_batches_at_hand_are_kept_as_the_collector_does():
    size = {"size": torch.tensor([100, 100])}
    batches = [IMAGES[:3], IMAGES[3:]]
    kept = weighing.kept([[f for f, _ in of] for of in batches], [[t | size for _, t in of] for of in batches])
    whole = detected(IMAGES)
    for name, value in vars(whole).items():
        assert torch.equal(getattr(kept, name), value), name
