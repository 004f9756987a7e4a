"""Files of features: whole or not there, and named by all that the features depend on."""

import dataclasses

import numpy as np
import pytest
import timm
import torch

import resnest_timm  # noqa: F401
from finetune.data.splits import SplitRows, Splits
from finetune.errors import OutputError
from finetune.networks import features
from finetune.networks.freezing import classifier_of
from tests.finetune.classes import prepare

VALUES = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)


def written(path, values=VALUES):
    features.write(path, len(values), [(12, values[12:]), (0, values[:5]), (5, values[5:12])])
    return path


def test_a_file_is_read_back_and_is_one_that_numpy_reads(tmp_path):
    path = written(tmp_path / "cache" / "a.npy")
    for found in (features.read(path), np.load(path)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, VALUES)
    assert list(path.parent.iterdir()) == [path]
    maps = VALUES.reshape(20, 5, 1, 1)
    np.testing.assert_array_equal(features.read(written(tmp_path / "b.npy", maps)), maps)
    assert features.read(tmp_path / "missing.npy") is None


def test_a_torn_or_changed_file_is_none(tmp_path):
    path = written(tmp_path / "a.npy")
    whole = path.read_bytes()
    for size in (0, 3, 60, 130, len(whole) - 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert features.read(path) is None, size
    for place in (130, 128 + VALUES.nbytes - 1, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert features.read(path) is None, place
    path.write_bytes(whole)
    assert features.read(path) is not None


def test_nothing_is_left_of_a_file_that_is_not_finished(tmp_path):
    def batches():
        yield 0, VALUES[:5]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        features.write(tmp_path / "a.npy", 20, batches())
    assert not list(tmp_path.iterdir())


def hash_of(model):
    return features.backbone_hash(model, classifier_of(model))


def test_the_hash_is_of_the_backbone_alone():
    model = timm.create_model("resnest14d", num_classes=3)
    before = hash_of(model)
    assert before == hash_of(model)
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert hash_of(model) == before
    for tensor in (model.layer1[0].bn1.running_mean, model.layer4[0].conv3.weight, model.conv1[0].weight):
        with torch.no_grad():
            tensor.view(-1)[0] += 1
            assert hash_of(model) != before
            tensor.view(-1)[0] -= 1


def test_networks_that_differ_in_nothing_but_what_they_do_with_their_weights():
    one, other = (timm.create_model("resnest14d", block_args={"avd_first": first}) for first in (False, True))
    other.load_state_dict(one.state_dict())
    assert hash_of(one) != hash_of(other)


@pytest.fixture(scope="module")
def data():
    return prepare("digits", max_samples=60)


CONFIG = {"input_size": (3, 32, 32), "crop_pct": 0.875, "mean": (0.5, 0.5, 0.5)}


def test_the_name_says_all_that_the_features_depend_on(data, monkeypatch):
    def path(data=data, role="train", config=CONFIG, backbone="abc", device="cpu"):
        return features.cache_file(data, role, config, backbone, device)

    part = data.splits.parts["train"]

    def with_rows(rows):
        return dataclasses.replace(data, splits=Splits({"train": SplitRows(part.source, rows, part.targets)}))

    again = prepare("digits", max_samples=60)
    assert path() == path(again) == path(with_rows(part.rows.copy())) == path(config=dict(reversed(CONFIG.items())))
    others = [path(role="test"), path(config={**CONFIG, "crop_pct": 1.0}), path(backbone="abd"), path(device="cuda")]
    others += [path(with_rows(part.rows[:-1])), path(with_rows(part.rows[::-1]))]
    monkeypatch.setattr(features, "version", lambda name: "0")
    others.append(path())
    assert len({path, *others}) == 1 + len(others)
    monkeypatch.undo()
    assert path() not in others
    assert len(set(others)) == len(others)


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot keep the features of .* in .*file: .* HF_DATASETS_CACHE"):
        features.write(tmp_path / "file" / "x.npy", 1, [(0, np.zeros((1, 3), dtype=np.float32))])
