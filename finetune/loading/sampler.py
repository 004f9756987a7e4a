"""Which image goes into which optimizer step, on which device: a function of (seed, epoch) alone.

An epoch is cut into global batches that differ by at most one image, and each batch into shares that differ by at most
one. So there is no ragged last batch, no image is dropped or padded for it, and the images of a step do not depend on
how many devices there are. With balanced classes an epoch is as long, but takes each class equally often.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch.distributed
from torch.utils.data.distributed import DistributedSampler

from finetune.errors import SplitError

Item = tuple[int, int]
"""(visit, index): all that a training sample and its augmentation depend on, besides the seed.

How often the image was used before, which is the epoch unless classes are balanced: then an image may come several
times in an epoch, each time augmented anew, or not at all.
"""


def cut(count: int, parts: int) -> np.ndarray:
    """Bounds of `parts` near-equal consecutive parts of `count` things, int64 `[parts + 1]`."""
    return np.arange(parts + 1, dtype=np.int64) * count // parts


def micro_batches(
    count: int, batch_size: int, world: int = 1, device_batch_size: int | None = None, least: int = 2
) -> int:
    """How many parts each share of a batch is cut into: one number for all steps and processes of a run.

    Args:
        count: Images of the training split.
        batch_size: Images per optimizer step over all processes at most.
        world: Number of processes.
        device_batch_size: Images per part at most; a share stays whole when not given.
        least: Images per part at least: 2, or 1 where no BatchNorm trains.

    Raises:
        SplitError: A part would have fewer.
    """
    batches = np.diff(cut(count, -(-count // batch_size)))
    smallest, largest = int(batches.min()) // world, -(-int(batches.max()) // world)
    parts = 1 if device_batch_size is None else -(-largest // device_batch_size)
    if device_batch_size is not None and parts > 1 and smallest // parts < least:
        enough = next(
            size for size in range(device_batch_size, largest + 1) if smallest // -(-largest // size) >= least
        )
        if least == 1:
            raise SplitError(_unequal(count, batch_size, world, parts, enough))
        raise SplitError(
            f"--device-batch-size {device_batch_size} would cut {smallest} images, a device's share of a batch, into "
            f"{parts} parts, some with fewer than the 2 images that BatchNorm needs: give {enough} or more"
        )
    return parts


def _unequal(count: int, batch_size: int, world: int, parts: int, enough: int) -> str:
    """Why there cannot be so many parts of single images: shares of batches that differ by one are cut alike."""
    even = [size for size in range(batch_size, world - 1, -1) if count % size == 0 and size % world == 0]
    other = f", or a --batch-size that divides the {count} training images, such as {even[0]}" if even else ""
    return (
        f"--device-batch-size 1 would leave some of the {parts} parts of a device's share of a batch without an image, "
        f"for not all batches have {batch_size} images: give {enough} or more{other}"
    )


def process() -> tuple[int, int]:
    """Rank and number of the processes that share the work."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


# Lightning leaves a loader alone whose sampler is a DistributedSampler, and would pad any other one over several
# devices. That is all the base class is for: nothing of it is used.
class TrainBatches(DistributedSampler[list[Item]]):
    """Yields this process's share of each global batch, as a list of `Item`, or as several: its micro-batches.

    Args:
        count: Images of the training split.
        batch_size: Images per optimizer step over all processes; the batches are near-equal and at most this large.
        seed: Of the order.
        rank: Of this process.
        world: Number of processes.
        epoch: The first to give.
        start: Batches of that epoch to leave out, because a run that is resumed has seen them.
        device_batch_size: Images per micro-batch at most; a share stays whole when not given.
        balance: int64 `[count]`, class of each image, if every class is to come equally often.
        least: Images at a time at least: 2, for BatchNorm cannot train on one; or 1 where none trains.

    Raises:
        SplitError: A process would get fewer at a time.

    Attributes:
        micro_batches: How many each share is cut into, near-equal; the same for all batches and processes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        start: int = 0,
        device_batch_size: int | None = None,
        balance: np.ndarray | None = None,
        least: int = 2,
    ) -> None:
        self.balance = balance
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.epoch, self.start = epoch, start
        self.bounds = cut(count, -(-count // batch_size))
        smallest = int(np.diff(self.bounds).min())
        if smallest < least * world:
            devices = (
                f"{world} device{'s' if world > 1 else ''} with at least {least} image{'s' if least > 1 else ''} each"
            )
            raise SplitError(
                f"batches of {smallest} images cannot be shared by {devices} ({count} training images, batch size "
                f"{batch_size}): raise --batch-size or lower --devices"
            )
        self.micro_batches = micro_batches(count, batch_size, world, device_batch_size, least)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also before one that goes on in the middle."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return (len(self.bounds) - 1) * self.micro_batches  # of a whole epoch: Lightning plans with it

    def __iter__(self) -> Iterator[list[Item]]:
        order = self._order(self.epoch)
        for number in range(self.start * self.micro_batches, len(self)):
            yield [(int(visit), int(index)) for visit, index in order[self._part(number, self.rank)]]

    def images(self, epoch: int, number: int, rank: int) -> np.ndarray:
        """Indices of the images of the `number`-th micro-batch of an epoch on a process, int64."""
        return self._order(epoch)[self._part(number, rank), 1]

    def _order(self, epoch: int) -> np.ndarray:
        """The epoch's items, int64 `[count, 2]`."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.balance is None:
            return np.stack([np.full(self.count, epoch), rng.permutation(self.count)], axis=1)
        return rng.permutation(balanced(self.balance, self.seed, epoch))

    def _part(self, number: int, rank: int) -> slice:
        batch, part = divmod(number, self.micro_batches)
        start, stop = (int(bound) for bound in self.bounds[batch : batch + 2])
        first, last = start + cut(stop - start, self.world)[rank : rank + 2]
        bounds = first + cut(int(last - first), self.micro_batches)
        return slice(int(bounds[part]), int(bounds[part + 1]))


def balanced(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The items of an epoch with as many images of each class, give or take one; as long as there are images.

    The whole training is one sequence in which the classes take turns, each going through its images again and again,
    in another order each time; an epoch is a section of it. So each image of a class is used as often as the others of
    that class, give or take one, also where an epoch has room for a part of them only.

    Args:
        labels: Class of each image, int64 `[N]`.
        seed: Of the orders.
        epoch: Which section, from 0.

    Returns:
        int64 `[N, 2]`: visit and index, by class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    first, last = epoch * len(labels), (epoch + 1) * len(labels)
    items = []
    for place, (label, members) in enumerate(zip(classes.tolist(), by_class, strict=True)):
        # Turn t is that of class t % K, for the t // K-th time.
        draws = np.arange(-((place - first) // len(classes)), -((place - last) // len(classes)), dtype=np.int64)
        visits = draws // len(members)
        for visit in np.unique(visits).tolist():
            order = np.random.default_rng((seed, label, visit)).permutation(members)
            chosen = order[draws[visits == visit] % len(members)]
            items.append(np.stack([np.full(len(chosen), visit), chosen], axis=1))
    return np.concatenate(items)


class EvalBatches(DistributedSampler[list[Item]]):
    """Yields every image of this process's share once, in order, as lists of `Item` of epoch 0.

    All processes get the same number of batches, because in validation under DDP each forward is a collective call.

    Args:
        count: Images of the split.
        batch_size: Images per batch and process at most.
        rank: Of this process.
        world: Number of processes.

    Raises:
        SplitError: There are fewer images than processes.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if count < world:
            raise SplitError(f"{count} images cannot be evaluated on {world} devices: lower --devices")
        shares = cut(count, world)
        batches = -(-int(np.diff(shares).max()) // batch_size)
        # A share one image smaller than the largest still fills as many batches, unless each held a single image.
        self.start = int(shares[rank])
        self.bounds = cut(int(shares[rank + 1] - shares[rank]), min(batches, int(np.diff(shares).min())))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[list[Item]]:
        for start, stop in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            yield [(0, self.start + int(index)) for index in range(start, stop)]
