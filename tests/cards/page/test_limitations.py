"""What a card warns of follows from the numbers, each by one rule."""

import pytest

from cards.page.limitations import limitations
from tests.cards.results import RESULT, changed

GOOD = changed(
    dataset__imbalance_ratio=1.0,
    dataset__max_samples=None,
    dataset__held_out={},
    dataset__excluded={"undecodable": {}, "unlabelled": {}},
    metrics__validation={"accuracy": 0.9},
    metrics__test={"accuracy": 0.9, "balanced_accuracy": 0.9, "macro_f1": 0.9},
    training={"epochs": 10, "planned_epochs": 10, "stopped_by": None, "best_epoch": 9},
    evaluation={
        "majority_class": {"class": "a", "validation": 0.25, "test": 0.25},
        "intervals": {"test": {"accuracy": [0.88, 0.92]}},
        "per_class": {
            "test": [
                {"class": name, "precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 10, "predicted": 9}
                for name in "abcd"
            ]
        },
        "calibration": {"temperature": 2.0, "test": {"error": 0.04, "error_calibrated": 0.03}},
    },
)
"""Nothing to warn of, but what holds for every classifier."""


def with_class(**values):
    rows = GOOD["evaluation"]["per_class"]["test"]
    return {"evaluation": GOOD["evaluation"] | {"per_class": {"test": [rows[0] | values, *rows[1:]]}}}


def with_evaluation(**values):
    return {"evaluation": GOOD["evaluation"] | values}


def with_calibration(**values):
    return with_evaluation(calibration={"temperature": 2.0, "test": {"error": 0.04, "error_calibrated": 0.03} | values})


def with_section(section, **values):
    return {section: GOOD[section] | values}


def ends(low, high):
    return with_evaluation(intervals={"test": {"accuracy": [low, high]}})


def test_a_good_result_has_the_one_warning_of_every_classifier():
    assert limitations(GOOD) == [
        "It answers with one of its 4 classes, also for an image that shows none of them, and was tested on images of "
        "this dataset only."
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (ends(0.89, 0.9401), "25,250 test images are few to judge by: the accuracy on more like them may be anything"),
        (ends(0.89, 0.94), None),
        (
            with_evaluation(majority_class={"class": "a*", "test": 0.88}),
            r"always answering a\* has a test accuracy of 0.88",
        ),
        (with_evaluation(majority_class={"class": "a", "test": 0.8799}), None),
        (with_class(f1=0.79, recall=0.7), "Weak classes: a (F1 0.7900, recall 0.7000, 10 test images)."),
        (with_class(f1=0.81), None),
        (with_class(f1=0.0, recall=0.0, precision=None, predicted=0), "Never answered for any test image: a."),
        (with_class(support=9), "1 of 4 classes has fewer than 10 test images"),
        (with_class(support=0, recall=None), "No test image shows a: nothing is known"),
        (
            with_calibration(error=0.051),
            "softmax is off by 0.0510 on average as a probability: divide the logits by the",
        ),
        (with_calibration(error=0.02, error_calibrated=0.03), None),
        (with_calibration(error=0.2, error_calibrated=0.06), "Calibrated probabilities, too, are off by 0.0600"),
        (with_evaluation(calibration=None), None),
        (with_section("dataset", imbalance_ratio=3.0), "The most frequent class has 3 times as many training images"),
        (with_section("dataset", imbalance_ratio=2.99), None),
        (
            with_section("metrics", test={"accuracy": 0.9, "balanced_accuracy": 0.84, "macro_f1": 0.9}),
            "the accuracy is 0.9000, the mean over classes 0.8400",
        ),
        (with_section("metrics", validation={"accuracy": 0.921}), "The validation accuracy, 0.9210, lies outside"),
        (with_section("metrics", validation={"accuracy": 0.92}), None),
        (with_section("dataset", held_out={"test": {"from": "all", "fraction": 0.1}}), "were drawn from all by chance"),
        (with_section("dataset", held_out={"validation": {"from": "all", "fraction": 0.1}}), None),
        (with_section("dataset", max_samples=1000), "at most 1,000 images of each of its splits"),
        (
            with_section("dataset", excluded={"undecodable": {"a": [1, 2], "b": [3]}, "unlabelled": {}}),
            ": 3 that do not",
        ),
        (
            with_section("dataset", excluded={"undecodable": {}, "unlabelled": {"a": 1, "b": 4}}),
            "images: 5 without a label.",
        ),
        (with_section("training", best_epoch=10), "The best epoch was the last of 10: a longer training may"),
        (
            with_section("training", stopped_by="patience", epochs=8, best_epoch=8),
            "The training was stopped by patience after 8 of 10 epochs",
        ),
        ({"evaluation": {}}, None),
    ],
    ids=str,
)
def test_each_warning_has_its_rule(changes, sentence):
    found = limitations(GOOD | changes)
    assert found[-1] == limitations(GOOD)[0]
    assert sum(sentence in line for line in found) == 1 if sentence else len(found) == 1


def test_a_class_without_test_images_is_not_one_of_few():
    assert not [line for line in limitations(GOOD | with_class(support=0, recall=None)) if "fewer than" in line]


def test_the_note_of_the_calibration_is_said():
    found = limitations(changed(evaluation__calibration__note="kept at the bound of 10: why"))
    assert "The temperature was kept at the bound of 10: why." in found


def test_of_many_weak_classes_the_weakest_are_named():
    rows = [RESULT["evaluation"]["per_class"]["test"][0] | {"class": f"c{i}", "f1": i / 1000} for i in range(40, 0, -1)]
    (line,) = [line for line in limitations(changed(evaluation__per_class={"test": rows})) if "Weak" in line]
    assert line.startswith("Weak classes: c1 (F1 0.0010, ")
    assert "c10 (" in line
    assert "c11 (" not in line
    assert line.endswith("; and 30 more, see the table.")
