"""Micro-batches: how shares are cut, and that a step's gradient stays that of the whole batch."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from finetune import ImageClassificationTask, ImageDataModule
from finetune.errors import ConfigError, SplitError
from finetune.loading.sampler import TrainBatches, micro_batches
from finetune.training.accumulation import StepWeights
from finetune.training.callbacks.accumulation import Accumulation, rescaled
from tests.finetune.fits import fit, images, network

# --- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
def test_micro_batches_are_a_steps_images_in_equally_many_near_equal_parts(world):
    for count, batch, most in itertools.product((48, 97, 100), (24, 48), (3, 4, 5, 8, 100)):
        whole = list(TrainBatches(count, batch, seed=3))
        parts = micro_batches(count, batch, world, most)
        samplers = [TrainBatches(count, batch, 3, rank, world, device_batch_size=most) for rank in range(world)]
        processes = [list(sampler) for sampler in samplers]
        assert {len(p) for p in processes} == {len(s) for s in samplers} == {len(whole) * parts}
        for step, expected in enumerate(whole):
            here = [process[step * parts : (step + 1) * parts] for process in processes]
            assert [item for process in here for part in process for item in part] == expected
            for process in here:
                sizes = [len(part) for part in process]
                assert 2 <= min(sizes) <= max(sizes) <= most
                assert max(sizes) - min(sizes) <= 1
        number = len(whole) * parts - 1
        assert samplers[-1].images(0, number, 0).tolist() == [index for _, index in processes[0][number]]


def test_a_run_that_goes_on_starts_with_the_first_part_of_a_step():
    resumed = TrainBatches(100, 16, start=3, device_batch_size=5)
    assert resumed.micro_batches == 3
    assert list(resumed) == list(TrainBatches(100, 16, device_batch_size=5))[9:]


@pytest.mark.parametrize(
    ("count", "batch", "world", "most", "parts", "enough"),
    [(12, 12, 1, 2, None, None), (15, 15, 1, 2, 8, 3), (40, 10, 2, 2, 3, 3), (9, 9, 2, 2, 3, 3)],
)
def test_fewer_than_two_images_in_a_part_are_refused(count, batch, world, most, parts, enough):
    if enough is None:
        assert micro_batches(count, batch, world, most) == count // most
        return
    with pytest.raises(
        SplitError, match=rf"--device-batch-size {most} would .* into {parts} .*: give {enough} or more"
    ):
        TrainBatches(count, batch, world=world, device_batch_size=most)
    assert TrainBatches(count, batch, world=world, device_batch_size=enough).micro_batches >= 1


# --- gradients -------------------------------------------------------------------------------------------------------


def whole_batches(module, data, lr=0.1):
    """By step, gradients and weights of plain SGD on whole batches: nothing of ours but the order of the images."""
    loader = ImageDataModule(data, image_size=8, batch_size=16, workers=0)
    for batch in loader.train_dataloader():
        pixels, targets = loader.on_after_batch_transfer(batch, 0)
        module.zero_grad()
        F.cross_entropy(module(pixels.double()), targets, label_smoothing=0.1).backward()
        gradients = [p.grad.clone() for p in module.parameters()]
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= lr * gradient
        yield gradients, [p.detach().clone() for p in module.parameters()]


def plain(module):
    """A task whose optimizer is SGD without momentum, at a constant rate."""
    task = ImageClassificationTask(module, 2)
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), lr=0.1)
    return task


@pytest.mark.parametrize("most", [None, 3, 4, 7])
def test_a_steps_gradient_is_that_of_the_whole_batch(most):
    data = images()
    expected = list(whole_batches(network().double(), data))
    module = ImageDataModule(data, image_size=8, batch_size=16, workers=0, device_batch_size=most)
    seen, _ = fit(task=plain(network()), data=module)
    assert len(seen.weights) == len(expected) == 3
    assert seen.batches == [(step + 1) * module.micro_batches - 1 for step in range(3)]
    for (gradients, weights), got, after in zip(expected, seen.gradients, seen.weights, strict=True):
        torch.testing.assert_close(got, gradients, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(after, weights, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("most", [None, 4])
def test_a_long_gradient_is_scaled_to_the_norm_that_is_asked_for(most):
    data = images()
    gradients, _ = next(whole_batches(network().double(), data))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for limit in (norm / 7, norm * 2):
        module = ImageDataModule(data, image_size=8, batch_size=16, workers=0, device_batch_size=most)
        seen, _ = fit(task=plain(network()), data=module, clip_grad=float(limit))
        factor = min(1.0, limit / norm)
        torch.testing.assert_close(seen.gradients[0], [g * factor for g in gradients], rtol=1e-5, atol=0)


def test_weights_of_uneven_parts_on_uneven_processes():
    """Against the sum that they stand for, as tensors, as on several processes."""
    sizes = [[3, 2, 2], [2, 2, 3], [2, 4, 2]]  # by process, by part
    total = sum(map(sum, sizes))
    for process in sizes:
        weights = StepWeights()
        for step in range(2):  # the second starts anew
            given = [weights.weight(n, torch.tensor(float(sum(p[i] for p in sizes))), 3) for i, n in enumerate(process)]
            factor = weights.correction(3)
            # Lightning divides by 3 parts, DDP by 3 processes.
            assert [float(w * factor) / 9 for w in given] == pytest.approx([n / total for n in process]), step


def test_an_incomplete_last_step_of_another_loader_counts_by_its_images():
    weights = StepWeights()
    given = [weights.weight(n, n, 1) for n in (4, 2)]
    assert [w * weights.correction(4) / 4 for w in given[:1]] == pytest.approx([4 / 6])


# --- Trainer ---------------------------------------------------------------------------------------------------------


def test_a_trainer_that_does_not_gather_is_refused():
    data = ImageDataModule(images(), image_size=8, batch_size=16, workers=0, device_batch_size=4)
    data.trainer = type("Trainer", (), {"accumulate_grad_batches": 1})()
    with pytest.raises(
        ConfigError, match=r"device_batch_size 4 cuts each batch into 4, and the Trainer gathers .* of 1:"
    ):
        data.train_dataloader()
    data.trainer.accumulate_grad_batches = 4
    assert len(data.train_dataloader()) == 12


def test_evaluation_takes_no_more_at_a_time():
    data = ImageDataModule(images(200), image_size=8, batch_size=16, workers=0, device_batch_size=4)
    assert {len(targets) for _, targets in data.val_dataloader()} == {4}


def test_counts_of_batches_become_those_of_another_number_of_parts():
    saved = {"ready": 12, "started": 12, "processed": 12, "completed": 11}  # in the middle of an epoch
    assert rescaled(saved, 3, 2) == {"ready": 8, "started": 8, "processed": 8, "completed": 7}
    whole = {"ready": 12, "started": 12, "processed": 12, "completed": 12}
    assert rescaled(whole, 1, 4) == dict.fromkeys(whole, 48)
    callback = Accumulation()
    callback.parts = 2
    progress = {"total": dict(saved), "current": dict(saved)}
    loops = {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    callback.on_load_checkpoint(None, None, {"callbacks": {"Accumulation": {"micro_batches": 3}}, **loops})
    assert progress["current"] == progress["total"] == rescaled(saved, 3, 2)


@pytest.mark.slow(seconds=30)
def test_two_processes_in_parts_train_what_one_trains_whole(cli, tmp_path):
    """test_convnext has no BatchNorm, so that nothing but rounding differs."""
    command = "--model test_convnext --dataset digits --no-pretrained --image-size 32 --accelerator cpu --workers 0"
    command += " --max-samples 100 --epochs 1 --batch-size 20 --optimizer sgd --lr 0.1 --precision 32 --clip-grad 1"
    runs = {"whole": "--devices 1", "parts": "--devices 2 --device-batch-size 4"}
    for name, flags in runs.items():
        done = cli("finetune", *command.split(), *flags.split(), "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    whole, parts = (load_file(tmp_path / name / "model/model.safetensors") for name in runs)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
