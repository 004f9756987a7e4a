"""A loss that is no longer a number ends the training, and says where."""

import re

import lightning as L
import pytest
import torch
from torch import nn

from finetune import ImageDataModule
from finetune.errors import NonFiniteError
from finetune.loading.datamodule import ImageRows
from finetune.loading.sampler import TrainBatches
from finetune.training.callbacks import non_finite
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.non_finite import StopOnNonFinite
from finetune.training.callbacks.signals import StopOnSignal
from tests.finetune.fits import fit, images, network

BAD = 23  # index among the training images, bad in the second epoch


class Poisoned(nn.Module):
    """Gives `value` as a logit where an image is all white."""

    def __init__(self, value):
        super().__init__()
        self.value, self.inner = value, network()

    def forward(self, pixels):
        logits = self.inner(pixels)
        return logits * self.value if (pixels > 2).flatten(1).all(1).any() else logits  # white is 2.2 and more


@pytest.fixture
def bad_image(monkeypatch):
    sample = ImageRows._sample

    def spoil(self, epoch, index, value, target):
        pixels, target = sample(self, epoch, index, value, target)
        return (torch.full_like(pixels, 255) if (epoch, index) == (1, BAD) else pixels), target

    monkeypatch.setattr(ImageRows, "_sample", spoil)


def data_and_place(most=None):
    """A data module, the micro-batch of the second epoch that has the bad image, and the rows of its images."""
    data = ImageDataModule(images(), image_size=8, batch_size=16, workers=0, device_batch_size=most)
    rows = data.data.splits.parts["train"].rows
    batches = TrainBatches(len(rows), 16, device_batch_size=most)
    number = next(n for n in range(len(batches)) if BAD in batches.images(1, n, 0))
    assert rows[BAD] != BAD  # rows of the source's split are not places in the training split
    return data, number, sorted(rows[batches.images(1, number, 0)].tolist())


class Count(L.Callback):
    """Batches that were begun."""

    begun = 0

    def on_train_batch_start(self, *args):
        self.begun += 1


class Event:
    """A copy that is on its way."""

    def __init__(self):
        self.waited = False

    def synchronize(self):
        self.waited = True


@pytest.mark.parametrize("most", [None, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_message_names_the_place_the_images_and_what_to_try(bad_image, value, most):
    data, number, rows = data_and_place(most)
    step = number // (1 if most is None else 4) + 1
    where = (
        rf"the loss became (nan|inf) in epoch 2, step {step} of 3, on the images in rows {re.escape(str(rows)[1:-1])} "
    )
    with pytest.raises(NonFiniteError, match=where + "of split 'train': lower --lr, give --clip-grad 1, or train with"):
        fit(Poisoned(value), data=data, callbacks=[StopOnNonFinite(data), count := Count()], epochs=2)
    parts = 1 if most is None else 4
    assert count.begun == 3 * parts + number + 1  # on a CPU at once


def test_a_loss_on_its_way_from_a_gpu_is_looked_at_a_batch_later(bad_image, monkeypatch):
    data, number, rows = data_and_place(4)
    events, callback, count = [], StopOnNonFinite(data), Count()

    def on_its_way(values):
        assert all(event.waited for event in events[:-1]), "two batches old and not looked at"
        events.append(Event())
        return values.clone(), events[-1]

    monkeypatch.setattr(non_finite, "to_cpu", on_its_way)
    with pytest.raises(NonFiniteError, match=rf"in epoch 2, step {number // 4 + 1} of 3, .* rows {str(rows)[1:-1]} of"):
        fit(Poisoned(float("nan")), data=data, callbacks=[callback, count], epochs=2)
    assert len(events) == 12 + number + 1
    assert number == 11 or count.begun == 12 + number + 2
    assert callback.pending is None


def test_no_checkpoint_holds_what_cannot_be_gone_on_with(bad_image, monkeypatch, tmp_path):
    """Also where the loss is still on its way: the step that it spoils is never saved."""
    data, number, _ = data_and_place()
    monkeypatch.setattr(non_finite, "to_cpu", lambda values: (values.clone(), Event()))
    checkpoints = Checkpoints(tmp_path, StopOnSignal(), save_every=1)
    with pytest.raises(NonFiniteError, match=f"step {number + 1} of 3"):
        fit(
            Poisoned(float("nan")),
            data=data,
            callbacks=[StopOnNonFinite(data), checkpoints],
            epochs=2,
            precision="32-true",
        )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3 + number
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    class Spoil(StopOnSignal):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                with torch.no_grad():
                    next(module.parameters()).fill_(float("inf"))

    data = ImageDataModule(images(), image_size=8, batch_size=16, workers=0)
    checkpoints = Checkpoints(tmp_path, StopOnSignal(), save_every=1)
    with pytest.raises(
        NonFiniteError, match=r"the weights became .* in epoch 1, by optimizer step 2, with a finite loss"
    ):
        fit(data=data, callbacks=[Spoil(), StopOnNonFinite(data), checkpoints], precision="32-true")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.slow(seconds=20)
def test_all_processes_stop_and_one_says_why(cli, tmp_path):
    command = "--model test_convnext --dataset digits --no-pretrained --image-size 32 --accelerator cpu --workers 0"
    command += " --max-samples 100 --epochs 1 --batch-size 20 --optimizer sgd --lr 10000 --warmup-epochs 0 --devices 2"
    done = cli("finetune", *command.split(), "--output", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: the loss became nan in epoch 1, step ") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/result.json").exists()
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


class Bursts(nn.Module):
    """Finite in training; in evaluation its logits are `value`."""

    def __init__(self, value):
        super().__init__()
        self.value, self.inner = value, network()

    def forward(self, pixels):
        logits = self.inner(pixels)
        return logits if self.training else logits * self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_that_is_no_number_stops_before_it_is_saved(tmp_path, value):
    data = ImageDataModule(images(), image_size=8, batch_size=16, workers=0)
    checkpoints = Checkpoints(tmp_path, StopOnSignal())
    with pytest.raises(NonFiniteError, match=r"the validation after epoch 1 gave loss nan: .* lower --lr, give"):
        fit(Bursts(value), data=data, callbacks=[StopOnNonFinite(data), checkpoints], precision="32-true")
    assert list(tmp_path.iterdir()) == []
