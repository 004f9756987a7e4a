"""Published numbers beside one's own, and how sure one's own are."""

import numpy as np
import pytest
import timm
from datasets import DatasetDict
from scipy import stats
from timm.data import ImageNetInfo

import resnest_timm  # noqa: F401
from finetune.data.dataset import LabelledImages
from finetune.data.source import Source
from finetune.data.splits import SplitRows, Splits
from finetune.evaluation import published
from finetune.evaluation.evaluation import Evaluation
from finetune.evaluation.intervals import wilson
from finetune.evaluation.published import Published
from finetune.tasks.classification.schema import DatasetSchema

WORDNET_IDS = tuple(ImageNetInfo("imagenet-1k").label_names())
NUMBERS = tuple(sorted(str(i) for i in range(1000)))


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (17, 40), (40515, 50000)])
def test_wilson_interval_is_scipys(successes, count):
    expected = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert wilson(successes / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_at_another_confidence():
    expected = stats.binomtest(17, 40).proportion_ci(0.9, method="wilson")
    assert wilson(17 / 40, 40, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "images", "protocol", "size", "expected"),
    [
        ("resnest50d", "imagenet-1k", "timm", 224, {"accuracy": 0.80958, "top5_accuracy": 0.95372}),
        ("resnest50", "imagenet-1k", "paper", 224, {"accuracy": 0.8103}),
        ("resnest101", "imagenet-1k", "paper", 256, {"accuracy": 0.8283}),
        ("resnest14d", "imagenet-1k", "paper", 224, {"accuracy": 0.7575}),
        ("resnest50_fast_2s1x64d", "imagenet-1k", "paper", 224, {"accuracy": 0.8053}),
        ("resnest50_fast_2s1x64d", "imagenet-1k", "timm", 224, None),
        ("resnest50d", "imagenet-v2", "timm", 224, {"accuracy": 0.7026}),
        ("resnest50d", "imagenet-v2", "paper", 224, None),
        ("resnest50d", "imagenet-1k", "timm", 256, None),
        ("resnest101_fast", "imagenet-1k", "paper", 224, None),
        ("resnet18", "imagenet-1k", "timm", 224, None),
    ],
)
def test_published_number_is_that_of_the_weights_and_the_protocol(name, images, protocol, size, expected):
    found = published.find(timm.create_model(name), images, protocol, size)
    assert (found and found.metrics) == (expected and pytest.approx(expected))


def labelled(name, split, classes, config=None):
    source = Source(DatasetDict({split: []}), name, config=config)
    schema = DatasetSchema("image-classification", "image", "label", "class-label", tuple(classes))
    return LabelledImages(source, schema, Splits({"test": SplitRows(split, np.arange(1), np.arange(1))}))


@pytest.mark.parametrize(
    ("name", "split", "classes", "expected"),
    [
        ("ILSVRC/imagenet-1k", "validation", WORDNET_IDS, "imagenet-1k"),
        ("ILSVRC2012", "val", WORDNET_IDS, "imagenet-1k"),
        ("val", "train", WORDNET_IDS, "imagenet-1k"),
        ("ILSVRC2012", "train", WORDNET_IDS, None),
        ("ILSVRC2012", "validation", WORDNET_IDS[:10], None),
        ("someone/imagenetv2", "test", NUMBERS, "imagenet-v2"),
        ("imagenetv2-matched-frequency-format-val", "validation", NUMBERS, "imagenet-v2"),
        ("imagenetv2-top-images-format-val", "validation", NUMBERS, None),
        ("imagenetv2-threshold0.7-format-val", "validation", NUMBERS, None),
        ("my-thousand-things", "validation", NUMBERS, None),
    ],
)
def test_benchmark_is_recognised_by_name_split_and_classes(name, split, classes, expected):
    assert published.benchmark(labelled(name, split, classes)) == expected


def test_easier_selections_of_imagenet_v2_are_told_by_configuration_too():
    assert published.benchmark(labelled("x/imagenetv2", "test", NUMBERS, "matched-frequency")) == "imagenet-v2"
    assert published.benchmark(labelled("x/imagenetv2", "test", NUMBERS, "top_images")) is None


@pytest.mark.parametrize(("measured", "outside"), [(0.8096, []), (0.80, ["accuracy"]), (0.82, ["accuracy"])])
def test_outside_means_that_the_interval_does_not_hold_the_published_value(measured, outside):
    known = Published("imagenet-1k", "timm's results", {"accuracy": 0.80958})
    found = Evaluation({"split": "validation"}, 50000, {"accuracy": measured, "loss": 1.0}, published=known)
    assert found.outside == found.to_json()["outside"] == outside
    assert list(found.intervals) == ["accuracy"]
