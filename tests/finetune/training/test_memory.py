"""A device whose memory is full: the error says which smaller number of images to try."""

import pytest
import torch

from finetune import ImageClassificationTask, RunConfig, run
from finetune.errors import DeviceMemoryError
from finetune.loading.sampler import micro_batches
from finetune.training.memory import advised


def said(count, batch_size, world, device_batch_size):
    with (
        pytest.raises(DeviceMemoryError) as raised,
        advised(count, batch_size, world, device_batch_size, "finetune --resume RUN"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return str(raised.value)


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "present", "held", "smaller"),
    [
        (1000, 64, 1, None, 64, 32),
        (1000, 64, 4, None, 16, 8),
        (1000, 64, 1, 10, 10, 5),
        (1000, 50, 3, 40, 17, 8),  # the share is the limit
        (10, 5, 1, None, 5, 3),  # two images at a time would leave one over
    ],
)
def test_half_as_many_at_a_time_or_the_next_number_that_works(count, batch_size, world, present, held, smaller):
    message = said(count, batch_size, world, present)
    assert message.startswith(
        f"out of memory with {held} images at a time on a device: go on with finetune --resume RUN --device-batch-size "
        f"{smaller}, a step still takes {batch_size} (--batch-size); or with --grad-checkpointing or"
    )
    assert micro_batches(count, batch_size, world, smaller) > micro_batches(count, batch_size, world, present)


def test_where_no_fewer_images_can_be_trained_on_something_else_is_named():
    message = said(6, 2, 1, None)
    assert "--device-batch-size" not in message
    assert "go on with finetune --resume RUN --grad-checkpointing, or with --precision bf16, or start again" in message


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match=r"^something else$"), advised(10, 4, 1, None, ""):
        raise RuntimeError("something else")


def test_a_training_that_runs_out_of_memory(monkeypatch, tmp_path):
    def full(self, batch, batch_index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ImageClassificationTask, "training_step", full)
    config = RunConfig(
        model="test_convnext",
        dataset="digits",
        pretrained=False,
        image_size=32,
        max_samples=60,
        batch_size=16,
        accelerator="cpu",
        workers=0,
        output=tmp_path / "run",
    )
    message = rf"out of memory with 16 images .* --resume {tmp_path / 'run'} --device-batch-size 8, a step still tak"
    with pytest.raises(DeviceMemoryError, match=message):
        run(config)


@pytest.mark.parametrize(
    "words",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)",
    ],
)
def test_full_shared_memory_says_what_to_raise(words):
    with (
        pytest.raises(DeviceMemoryError, match=r"/dev/shm.*--shm-size=2g.*finetune --resume RUN --workers 0"),
        advised(10, 5, 1, None, "finetune --resume RUN"),
    ):
        raise RuntimeError(words)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), advised(10, 5, 1, None, ""):
        raise RuntimeError("shapes differ")
