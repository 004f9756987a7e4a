"""What a training of a detector may be cut to: images one by one, and a time; and what tells its data from others."""

import json
import shutil

import numpy as np
import pytest
from torch import nn

from finetune.data.dataset import TARGETS
from finetune.errors import SplitError
from finetune.loading.sampler import TrainBatches
from finetune.tasks.detection import schema
from finetune.tasks.detection.loading.datamodule import DetectionDataModule
from finetune.tasks.detection.networks import build
from finetune.training import resume
from finetune.training.callbacks.batch_norm import norms_train
from tests.finetune.tasks.detection import drawn

# --- one image at a time ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "animals"
    drawn.write_coco(root, masks=True)
    return root


def test_an_image_is_alone_only_where_no_norm_trains(folder):
    images = DetectionDataModule(
        drawn.prepared(str(folder)), drawn.CONFIG, batch_size=7, device_batch_size=1, workers=0
    )
    assert images.epoch_images == 14
    with pytest.raises(SplitError, match=r"--device-batch-size 1 would cut .* fewer than the 2 images that BatchNorm"):
        images.check(1)
    images.norms_train = False
    images.check(1)
    batches = images.train_batches()
    assert batches.micro_batches == images.micro_batches == 7
    assert {len(batch) for batch in batches} == {1}
    assert sorted(item[1] for batch in batches for item in batch) == list(range(images.epoch_images))


def test_a_part_without_an_image_is_refused_still():
    said = r"without an image, .* have 4 images: give 2 or more, or a --batch-size that divides the 14 .* such as 2$"
    with pytest.raises(SplitError, match=said):
        TrainBatches(14, 4, device_batch_size=1, least=1)
    with pytest.raises(SplitError, match=r"give 2 or more$"):  # 13 is divided by none
        TrainBatches(13, 4, world=2, device_batch_size=1, least=1)
    assert TrainBatches(9, 3, world=3, least=1).micro_batches == 1
    with pytest.raises(SplitError, match="cannot be shared by 4 devices with at least 1 image each"):
        TrainBatches(9, 3, world=4, least=1)


def test_norms_train_unless_all_are_held_or_frozen():
    model = build.build("test_resnet", "fcos", 2, pretrained=False, image_size=64)
    assert norms_train(model, held=False, frozen=False)
    assert not norms_train(model, held=True, frozen=False)
    assert not norms_train(model, held=False, frozen=True)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def get_backbone(self):
            return self.body

    assert norms_train(Decoder(), held=True, frozen=True)  # its own norm is not in the backbone


@pytest.mark.slow(seconds=30)
def test_it_trains_on_one_image_at_a_time_and_stops_within_an_epoch_when_time_is_over(folder, cli, tmp_path):
    words = (
        "--model resnest14d --no-pretrained --freeze backbone --image-size 64 --epochs 500 --batch-size 2 --max-time 1s"
    )
    words += " --no-robustness --device-batch-size 1 --detector fcos --precision 32-true --workers 0 --accelerator cpu"
    done = cli(
        "finetune", "--dataset", folder, "--task", "object-detection", *words.split(), "--output", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    training = json.loads((tmp_path / "run/result.json").read_text())["training"]
    assert training["stopped_by"] == "max-time"
    assert training["epochs"] < 500
    assert (tmp_path / "run/model/model.safetensors").is_file()
    refused = cli(
        "finetune", "--dataset", folder, "--task", "object-detection", *words.replace("--freeze backbone", "").split()
    )
    assert refused.returncode == 2
    assert "fewer than the 2 images that BatchNorm needs" in refused.stderr


# --- what tells the data from others ---------------------------------------------------------------------------------


def moved(root, change):
    """Annotations of the training images, changed."""
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        change(one)
    path.write_text(json.dumps(content))


def shift(one):
    one["bbox"][0] += 0.5


def notch(one):
    one["segmentation"][0][0] += 0.25


def test_other_boxes_are_other_data_though_their_number_is_the_same(folder, tmp_path):
    before = drawn.prepared(str(folder)).fingerprints()
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert drawn.prepared(str(copied)).fingerprints() == before  # wherever it lies
    moved(copied, shift)
    after = drawn.prepared(str(copied)).fingerprints()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{TARGETS}train split"}
    assert list(resume._differences(before, after)) == ["other images or labels in its train split"]
    of_before = {name: of for name, of in before.items() if not name.startswith(TARGETS)}
    assert list(resume._differences(of_before, after)) == []  # a run of an earlier version goes on


def test_other_masks_are_other_data_where_masks_are_learnt(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    moved(copied, notch)
    before, after = (drawn.prepared(str(root), schema.INSTANCES).fingerprints() for root in (folder, copied))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{TARGETS}train split"}


def test_rows_are_hashed_in_their_order(folder):
    data = drawn.prepared(str(folder))
    encoded, rows = data.encoded("train"), data.splits.parts["train"].rows
    one, other = (data.schema.digest(encoded, some) for some in (rows, np.ascontiguousarray(rows[::-1])))
    assert one != other
    assert len(one) == 16
