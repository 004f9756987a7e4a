"""Averaged weights: against an independent average, and where they are used."""

import copy

import pytest
import torch
import torch.nn.functional as F

from finetune import ImageClassificationTask, ImageDataModule
from finetune.export import model_folder
from finetune.training import session
from finetune.training.callbacks.accumulation import Accumulation
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.ema import EMA, AveragedWeights, decay_of
from finetune.training.callbacks.signals import StopOnSignal
from tests.finetune.fits import fit, images, network


def average(history, decay):
    """The recurrence, written out: `history` is a list by step of lists of tensors."""
    mean = [value.double() for value in history[0]]
    for step, values in enumerate(history[1:], start=1):
        d = min(decay, (1 + step) / (10 + step))
        mean = [d * m + (1 - d) * v.double() for m, v in zip(mean, values, strict=True)]
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.999])
@pytest.mark.parametrize("most", [None, 4])
def test_a_training_ends_with_the_average_of_its_steps(decay, most):
    seen, task = fit(network(norm=True), callbacks=[EMA(decay)], epochs=3, batch_size=16, device_batch_size=most)
    assert len(seen.weights) == 9  # 3 epochs of 3 optimizer steps, also where each has 4 parts
    torch.testing.assert_close([p.detach() for p in task.parameters()], average(seen.weights, decay))
    names = [name for name, _ in task.named_buffers()]
    expected = average(seen.buffers, decay)
    for name, buffer, mean, last in zip(names, task.buffers(), expected, seen.buffers[-1], strict=True):
        if "running" in name:
            torch.testing.assert_close(buffer, mean)
        else:
            assert buffer == last  # a count of batches is no average
    assert any(not torch.equal(p, last) for p, last in zip(task.parameters(), seen.weights[-1], strict=True))


def test_the_decay_rises():
    assert [decay_of(n, 0.9) for n in (1, 8, 89, 1000)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])


def test_averaged_weights_are_validated_and_saved_beside_the_raw_ones(tmp_path):
    data = ImageDataModule(images(), image_size=8, batch_size=16, workers=0)
    checkpoints = Checkpoints(tmp_path, StopOnSignal())
    task = ImageClassificationTask(network(norm=True), 2, optimizer="sgd", lr=0.1)
    callback, epochs = EMA(0.5), 2
    hooks = [Accumulation(data), callback, checkpoints]
    trainer = session.make_trainer("cpu", "1", hooks, "32-true", max_epochs=epochs)
    with session.quiet():
        trainer.fit(task, data)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == saved["current_model_state"].keys() == task.state_dict().keys()
    raw, averaged = (saved[key]["model.0.weight"] for key in ("current_model_state", "state_dict"))
    assert not torch.equal(raw, averaged)
    # What was validated and decides about the best epoch are the averaged ones.
    model = network(norm=True).eval()
    model.load_state_dict(model_folder.best_weights(tmp_path / "best.ckpt"))
    pixels, targets = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    loss = F.cross_entropy(model(pixels), targets)
    assert loss.item() == pytest.approx(-checkpoints.best[1], rel=1e-6)
    # Nothing is put in place of weights that are evaluated after the training.
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.fill_(0.25)
    with session.quiet():
        trainer.validate(task, data, verbose=False)
    assert all((parameter == 0.25).all() for parameter in task.parameters())
    assert task.exact["loss"] == pytest.approx(torch.tensor(2.0).log().item())


def test_a_compiled_model_is_averaged_under_its_own_names():
    task = ImageClassificationTask(network(norm=True), 2)
    task.model.compile(backend="eager")
    task(torch.zeros(2, 3, 8, 8))
    averaged = AveragedWeights(task, 0.9)
    averaged.update_parameters(task)
    names = copy.deepcopy(list(task.state_dict()))
    assert list(averaged.module.state_dict()) == names
    assert not [name for name in names if "_orig_mod" in name]
