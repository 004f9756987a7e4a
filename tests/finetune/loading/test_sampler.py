"""Which image goes into which step on which process."""

import itertools

import numpy as np
import pytest

from finetune.errors import SplitError
from finetune.loading.sampler import EvalBatches, TrainBatches, cut, process

COUNTS = [12, 13, 31, 32, 33, 64, 97, 100, 257, 1437]
BATCHES = [6, 7, 16, 32, 64]
WORLDS = [1, 2, 3]


def rounded_up(count, size):
    return -(-count // size)


def trainable(count, batch, world):
    """Whether even the smallest of the near-equal batches has two images for each process."""
    return count // rounded_up(count, batch) >= 2 * world


def epoch_of(count, batch, world, epoch=0, seed=0):
    """By step, by process: the images of one epoch."""
    samplers = [TrainBatches(count, batch, seed, rank, world) for rank in range(world)]
    shares = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert {item[0] for share in batches for item in share} == {epoch}
        shares.append([[index for _, index in share] for share in batches])
    return list(zip(*shares, strict=True))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("count", COUNTS)
def test_each_image_once_an_epoch_in_near_equal_batches_and_shares(count, world):
    for batch in (size for size in BATCHES if trainable(count, size, world)):
        steps = epoch_of(count, batch, world)
        assert sorted(index for step in steps for share in step for index in share) == list(range(count))
        sizes = [sum(map(len, step)) for step in steps]
        assert len(steps) == rounded_up(count, batch)
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1
        for step in steps:
            lengths = [len(share) for share in step]
            assert max(lengths) - min(lengths) <= 1
            assert min(lengths) >= 2


@pytest.mark.parametrize("count", COUNTS)
def test_the_images_of_a_step_do_not_depend_on_the_number_of_processes(count):
    """Neither does their order."""
    for batch in BATCHES:
        alone = epoch_of(count, batch, 1, epoch=5, seed=3)
        for world in (size for size in WORLDS if trainable(count, batch, size)):
            for single, shared in zip(alone, epoch_of(count, batch, world, epoch=5, seed=3), strict=True):
                assert list(itertools.chain(*shared)) == single[0]


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {
        (seed, epoch): tuple(itertools.chain(*(step[0] for step in epoch_of(97, 16, 1, epoch, seed))))
        for seed in (0, 1, 2)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(itertools.chain(*(step[0] for step in epoch_of(97, 16, 1, 2, 1))))
    assert tuple(range(97)) not in orders.values()


def test_an_epoch_can_be_gone_through_again():
    sampler = TrainBatches(50, 8)
    assert list(sampler) == list(sampler)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize(
    ("count", "batch", "world", "message"),
    [
        (1, 8, 1, r"batches of 1 images cannot be shared by 1 device with at least 2 images each \(1 training im"),
        (3, 2, 1, r"batches of 1 images cannot be shared by 1 device with.*\(3 training images, batch size 2\): raise"),
        (100, 4, 3, r"batches of 4 images cannot be shared by 3 devices.*: raise --batch-size or lower --devices"),
        (9, 4, 2, r"batches of 3 images cannot be shared by 2 devices"),
    ],
)
def test_fewer_than_two_images_of_a_batch_on_a_process_are_refused(count, batch, world, message):
    for rank in range(world):
        with pytest.raises(SplitError, match=message):
            TrainBatches(count, batch, rank=rank, world=world)


def test_batches_are_made_or_refused_for_every_small_shape():
    for count, batch, world in itertools.product(range(1, 30), range(2, 12), (1, 2, 3, 4)):
        if not trainable(count, batch, world):
            smallest = count // rounded_up(count, batch)
            with pytest.raises(SplitError, match=f"batches of {smallest} images"):
                TrainBatches(count, batch, world=world)
        else:
            steps = epoch_of(count, batch, world)
            assert min(len(share) for step in steps for share in step) >= 2


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [5, 7, 40, 41, 64, 65, 100, 181])
def test_evaluation_sees_every_image_once_in_equally_many_batches(count, world):
    for batch in (2, 3, 8, 32, 64):
        processes = [EvalBatches(count, batch, rank, world) for rank in range(world)]
        batches = [list(sampler) for sampler in processes]
        # As many as the largest share needs, on every process, and as many as the sampler says.
        expected = rounded_up(rounded_up(count, world), batch)
        assert {len(of_process) for of_process in batches} | {len(sampler) for sampler in processes} == {expected}
        items = [item for of_process in batches for share in of_process for item in share]
        assert items == [(0, index) for index in range(count)]  # in order, none twice, none missing
        sizes = [len(share) for of_process in batches for share in of_process]
        assert 1 <= min(sizes) <= max(sizes) <= batch


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_processes_as_images_evaluate_one_each(count):
    assert [list(EvalBatches(count, 8, rank, count)) for rank in range(count)] == [[[(0, i)]] for i in range(count)]


def test_batches_of_one_image_stay_equally_many_on_each_process():
    """Three images on two processes: no process may call the model more often, so one batch holds two."""
    assert [[len(b) for b in EvalBatches(3, 1, rank, 2)] for rank in (0, 1)] == [[1], [2]]
    assert [len(b) for b in EvalBatches(5, 1)] == [1] * 5
    assert [[len(b) for b in EvalBatches(6, 1, rank, 3)] for rank in range(3)] == [[1, 1]] * 3


@pytest.mark.parametrize(("count", "world"), [(0, 1), (1, 2), (4, 5)])
def test_fewer_images_than_processes_are_refused(count, world):
    with pytest.raises(SplitError, match=f"{count} images cannot be evaluated on {world} devices: lower --devices"):
        EvalBatches(count, 8, 0, world)


def test_parts_are_near_equal_and_consecutive():
    for count, parts in itertools.product(range(50), range(1, 12)):
        bounds = cut(count, parts)
        sizes = np.diff(bounds)
        assert (bounds[0], bounds[-1], len(sizes)) == (0, count, parts)
        assert sizes.max() - sizes.min() <= 1


def test_without_a_process_group_this_is_the_only_process():
    assert process() == (0, 1)
