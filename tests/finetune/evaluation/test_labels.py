"""Which output of a model a dataset's class means."""

import numpy as np
import pytest
import timm
from timm.data import ImageNetInfo

from finetune.errors import ModelError
from finetune.evaluation import labels

WORDNET_IDS = ImageNetInfo("imagenet-1k").label_names()
NAMES = ImageNetInfo("imagenet-1k").label_descriptions()


@pytest.fixture(scope="module")
def imagenet_model():
    return timm.create_model("resnet18")


def test_wordnet_ids_mean_their_place_among_the_sorted_thousand(imagenet_model):
    assert sorted(WORDNET_IDS) == WORDNET_IDS
    found = labels.match(WORDNET_IDS, imagenet_model)
    np.testing.assert_array_equal(found.outputs, np.arange(1000))
    some = labels.match(["n15075141", "n01440764", "n01443537"], imagenet_model)
    assert some.outputs.tolist() == [999, 0, 1]  # toilet tissue is the last, tench the first
    assert (some.num_outputs, some.rule) == (1000, "WordNet id")


def test_folders_0_to_999_are_numbers_although_they_sort_as_text(imagenet_model):
    found = labels.match(sorted(str(i) for i in range(1000)), imagenet_model)
    assert found.outputs[:4].tolist() == [0, 1, 10, 100]
    assert sorted(found.outputs) == list(range(1000))
    assert found.rule == "number"


def test_class_names_in_the_hubs_order(imagenet_model):
    """The Hub's imagenet-1k names both cranes in its own way: as many classes as outputs, in the dataset's order."""
    found = labels.match([*NAMES[:134], "crane, bird", *NAMES[135:]], imagenet_model)
    np.testing.assert_array_equal(found.outputs, np.arange(1000))
    assert found.rule == "the dataset's order"


def test_a_models_own_label_names_come_first():
    model = timm.create_model("resnet18", num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["1", "0", "2"]}
    assert labels.match(["0", "1", "2"], model).outputs.tolist() == [1, 0, 2]
    assert labels.match(["2"], model).outputs.tolist() == [2]
    assert labels.match(["a", "b", "c"], model).rule == "the dataset's order"


def test_classes_that_the_model_does_not_have_are_refused(imagenet_model):
    digits = [str(i) for i in range(10)]
    with pytest.raises(ModelError, match=r"10 classes \(0, 1, .*1000 outputs.*WordNet ids such as n01440764"):
        labels.match(digits, imagenet_model)
    with pytest.raises(ModelError, match=r"3 classes .*1000 outputs"):
        labels.match(["n01440764", "n01443537", "n99999999"], imagenet_model)
    with pytest.raises(ModelError, match=r"2 classes .*3 outputs: they do not say which is which"):
        labels.match(["cat", "dog"], timm.create_model("resnet18", num_classes=3))


def test_imagenet_is_known_by_all_its_classes_in_order():
    assert labels.is_imagenet(WORDNET_IDS)
    assert labels.is_imagenet([*NAMES[:134], "crane, bird", *NAMES[135:]])
    assert not labels.is_imagenet(WORDNET_IDS[::-1])
    assert not labels.is_imagenet(NAMES[::-1])
    assert not labels.is_imagenet(WORDNET_IDS[:999])
    assert not labels.is_imagenet([str(i) for i in range(1000)])
