"""A stream's loaders: what each process and worker reads, and what is counted, on 1, 2 and 3 processes."""

import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch

from finetune.data import images
from finetune.errors import DatasetError, PeerError, SchemaError, SplitError
from finetune.loading import stream_source
from finetune.loading.stream_module import StreamDataModule
from finetune.loading.stream_rows import Chunk, merged, parts, shuffled
from finetune.tasks.classification.task import CLASSIFICATION
from finetune.training import launch
from tests.finetune.ranks import ranks
from tests.finetune.streams import CLASSES, number, parquet, shards, tar_of_json, write

NAMES = {"train_split": "train", "val_split": "validation", "test_split": "test"}
NUMBERS = {split: list(itertools.chain(*numbers)) for split, numbers in shards().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("parquet"))


def module(folder, workers=0, steps=100, batch=6, hflip=0.0, **options):
    data = stream_source.prepare(str(folder), CLASSIFICATION, **NAMES)
    options = {"image_size": 32, "batch_size": batch, "workers": workers, "hflip": hflip} | options
    return StreamDataModule(data, steps_per_epoch=steps, **options)


def numbers(loader):
    return [[number(picture) for picture in pixels] for pixels, _ in loader]


def connected():
    """This process among those that `ranks` has started."""
    peers = launch.connect()  # its store must live as long as the process group
    if peers.here.world > 1:
        torch.distributed.init_process_group("gloo")
    return peers


def read(folder, workers, steps):
    """By split, the numbers in each batch of this process, and what it knows of all of them."""
    peers = connected()
    data = module(folder, workers, steps)
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    batches = {role: numbers(loader) for role, loader in loaders.items()}
    data.teardown("fit")
    parts = {role: (part.rows, part.targets, part.whole) for role, part in data.stream.splits.parts.items()}
    del peers
    return batches, parts, data.stream.epochs


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)])
def test_no_image_twice_none_lost_but_the_tail_and_as_many_steps_everywhere(folder, tmp_path, world, workers):
    """Five shards are divisible by no number of processes here."""
    found = ranks(world, read, folder, workers, 100, folder=tmp_path)
    for role in ("validation", "test"):
        seen = [n for batches, _, _ in found for batch in batches[role] for n in batch]
        assert Counter(seen) == Counter(NUMBERS[role])  # exactly once
        assert len({len(batches[role]) for batches, _, _ in found}) == 1
        for _, splits, _ in found:
            rows, labels, whole = splits[role]
            assert whole
            # The order of what was predicted, process by process: row 0 is the split's first picture.
            assert [NUMBERS[role][row] for row in rows] == seen
            assert labels.tolist() == [n % 3 for n in seen]
    trained = [n for batches, _, _ in found for batch in batches["train"] for n in batch]
    assert len(trained) == len(set(trained))
    assert set(trained) <= set(NUMBERS["train"])
    (steps,) = {len(batches["train"]) for batches, _, _ in found}
    assert {len(batch) for batches, _, _ in found for batch in batches["train"]} == {6 // world}
    assert steps >= 45 // 6 - world  # each process's end is all that is lost
    assert trained != sorted(trained)  # shuffled
    for _, splits, epochs in found:
        assert epochs == [{"steps": steps, "images": 6 * steps, "left_over": 45 - 6 * steps}]
        assert np.bincount(splits["train"][1]).tolist() == np.bincount(np.array(trained) % 3).tolist()


def test_a_process_with_fewer_images_ends_the_epoch_for_all(tmp_path):
    """Shards of 4 and 17 images, one for each process: one step of 2 x 3, and 15 images are left. So in evaluation."""
    write(tmp_path, sizes={"train": (4, 17), "validation": (2, 3), "test": (14, 1)})
    found = ranks(2, read, tmp_path, 0, 100, folder=tmp_path / "ranks")
    assert [[len(batch) for batch in batches["train"]] for batches, _, _ in found] == [[3], [3]]
    assert [[len(batch) for batch in batches["test"]] for batches, _, _ in found] == [[6, 6, 2], [1, 0, 0]]
    assert [epochs for _, _, epochs in found] == 2 * [[{"steps": 1, "images": 6, "left_over": 15}]]


def test_readers_share_whole_shards_and_what_remains_row_by_row():
    order = [4, 2, 0, 1, 3]
    assert [parts(order, reader, 2) for reader in (0, 1)] == [
        [(4, 0, 1), (0, 0, 1), (3, 0, 2)],
        [(2, 0, 1), (1, 0, 1), (3, 1, 2)],
    ]
    assert parts(order, 5, 7) == [(shard, 5, 7) for shard in order]  # more readers than shards
    assert parts(order, 0, 1) == [(shard, 0, 1) for shard in order]


def test_what_several_workers_end_with_fills_batches_too():
    def chunk(first, size):
        numbers = torch.arange(first, first + size)
        return Chunk(torch.zeros(size, 3, 2, 2), numbers, torch.stack([numbers, numbers], 1), [], {first: size})

    found = list(merged(iter([chunk(0, 4), chunk(10, 3), chunk(20, 4), chunk(30, 3), chunk(40, 1)]), 4))
    assert [part.targets.tolist() for part in found] == [
        [0, 1, 2, 3],
        [20, 21, 22, 23],
        [10, 11, 12, 30],
        [31, 32, 40],
    ]
    assert all(torch.equal(part.places[:, 1], part.targets) and len(part.pixels) == len(part.targets) for part in found)
    assert [part.lengths for part in found] == [{0: 4}, {20: 4}, {10: 3, 30: 3}, {40: 1}]


def test_shuffling_gives_each_row_once_from_a_buffer():
    rows = [(0, row, None, 0) for row in range(100)]
    drawn = [row for _, row, _, _ in shuffled(iter(rows), np.random.default_rng(0), size=10)]
    assert sorted(drawn) == list(range(100))
    assert all(row < place + 10 for place, row in enumerate(drawn))  # none before it has been read
    assert sum(abs(row - place) for place, row in enumerate(drawn)) > 300


def test_shards_and_rows_within_them_come_in_another_order_in_each_epoch(folder, monkeypatch):
    def places(epoch):
        return [tuple(place) for chunk in module(folder).chunks("train", 6, epoch) for place in chunk.places.tolist()]

    first = [row for shard, row in places(0) if shard == 2]
    assert first != sorted(first) == list(range(11))
    monkeypatch.setattr("finetune.loading.stream_rows.shuffled", lambda rows, rng: rows)
    orders = {tuple(dict.fromkeys(shard for shard, _ in places(epoch))) for epoch in range(4)}
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2, 3, 4)}
    assert len(orders) > 1


def test_an_epoch_may_be_shorter_than_the_stream_and_the_next_differs(folder, caplog):
    caplog.set_level("INFO", "finetune")
    data = module(folder, steps=3)
    epochs = []
    for epoch in (0, 1):
        data.load_state_dict(data.state_dict() | {"epoch": epoch})
        epochs.append(numbers(data.train_dataloader()))
    assert [len(batches) for batches in epochs] == [3, 3]
    assert caplog.text.count("--steps-per-epoch ended it: what 3 steps do not reach of a shard is never trained") == 1
    assert epochs[0] != epochs[1]
    assert data.stream.epochs == 2 * [{"steps": 3, "images": 18, "left_over": None}]
    data.load_state_dict(data.state_dict() | {"epoch": 1, "step": 2})
    assert numbers(data.train_dataloader()) == epochs[1][2:]


def drawn(_image):
    """A transform whose picture says what it drew from the three generators."""
    values = torch.tensor([random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))])
    return values.to(torch.uint8)[:, None, None].expand(3, 32, 32)


def test_an_image_is_augmented_the_same_way_whoever_reads_it(folder):
    """What is drawn depends on seed, epoch and image; the generators of the main process stay as they were."""

    def pictures(workers, epoch=0):
        data = module(folder, workers)
        data.train_transform = drawn
        before = random.getstate()
        chunks = list(data.chunks("train", 6, epoch))
        assert random.getstate() == before
        return {tuple(p.tolist()): x.clone() for c in chunks for p, x in zip(c.places, c.pixels, strict=True)}

    alone, others, later = pictures(0), pictures(2), pictures(0, epoch=1)
    assert len(alone) == 45
    assert alone.keys() == others.keys() == later.keys()
    assert all(torch.equal(alone[place], others[place]) for place in alone)
    assert len({tuple(picture[:, 0, 0].tolist()) for picture in (*alone.values(), *later.values())}) > 85


def test_a_share_of_a_batch_may_be_cut_into_micro_batches(folder):
    data = module(folder, steps=2, batch=6, device_batch_size=4)
    assert data.micro_batches == 2
    data.trainer = type("Gathering", (), {"accumulate_grad_batches": 2, "current_epoch": 0})()
    cut = numbers(data.train_dataloader())
    assert [len(part) for part in cut] == [3, 3, 3, 3]
    data.trainer = None
    assert [a + b for a, b in itertools.pairwise(cut)][::2] == numbers(module(folder, steps=2).train_dataloader())


def test_what_is_counted_is_what_was_trained_on(folder):
    """Lightning asks for one batch more than it has trained on; a training may end there."""
    data = module(folder, steps=5)
    loader = iter(data.train_dataloader())
    trained = [next(loader)[1] for _ in range(3)]
    assert np.concatenate(data.trained).tolist() == torch.cat(trained[:2]).tolist()
    data.teardown("fit")
    assert data.stream.splits.counts()["train"] == 12


def named(folder, epoch):
    peers = connected()
    data = module(folder, steps=4, batch=6)
    data.position = {"epoch": epoch, "step": 1}
    loader = iter(data.train_dataloader())
    (pixels, _), _ = next(loader), next(loader)
    del peers
    return [number(picture) for picture in pixels], [data.batch_images(epoch, 1, ranks) for ranks in ([0, 1], [1])]


def test_images_of_a_batch_can_be_named_by_all_processes(folder, tmp_path):
    """For the message of a loss that is no number, which comes when the next batch is there already."""
    found = ranks(2, named, folder, 1, folder=tmp_path)
    assert found[0][1] == found[1][1]
    for text, taken in zip(found[0][1], ([0, 1], [1]), strict=True):
        places = {shard: re.findall(r"\d+", rows) for rows, shard in re.findall(r"rows ([\d, ]+) of shard (\d)", text)}
        expected = sorted(n for rank in taken for n in found[rank][0])
        assert sorted(shards()["train"][int(s)][int(row)] for s, rows in places.items() for row in rows) == expected
        assert text.endswith(" of split 'train'")


def test_what_cannot_be_used_is_left_out_and_said(tmp_path, caplog):
    """Of the pictures 3, 46 and 50 nothing decodes; 46 and 50 are rows 1 and 5 of the validation's 7."""
    caplog.set_level("INFO", "finetune")
    write(tmp_path, lambda numbers: parquet(numbers, bad={3, 46, 50}, unlabelled={20, 21}))
    data = module(tmp_path, workers=2)
    assert sum(len(batch) for batch in numbers(data.train_dataloader())) == 42
    assert data.stream.epochs == [{"steps": 7, "images": 42, "left_over": 0}]
    assert numbers(data.val_dataloader()) == numbers(data.val_dataloader())
    part = data.stream.splits.parts["validation"]
    assert (sorted(part.rows.tolist()), part.whole) == ([0, 2, 3, 4, 6], False)
    bad = {name: [(image.row, image.reason) for image in found] for name, found in data.stream.undecodable.items()}
    assert bad.keys() == {"train", "validation"}
    assert [row for row, _ in bad["validation"]] == [1, 2]  # of shards 0 and 1
    assert bad["train"][0][1].endswith("(row of shard 0)")
    assert data.stream.unlabelled == {"train": 2}
    said = [record.getMessage() for record in caplog.records if "left out of" in record.getMessage()]
    assert len([line for line in said if "'validation'" in line]) == 1
    assert "left out of 'train' so far: 1 images that do not decode (row 3 of shard 0: " in said[-2]
    assert said[-2].endswith("2 rows without a label")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_json_of_a_webdataset_is_columns_of_its_stream(tmp_path, workers):
    folder = write(tmp_path, tar_of_json, "tar")
    data = stream_source.prepare(str(folder), CLASSIFICATION, **NAMES, classes=",".join(CLASSES))
    module = StreamDataModule(data, steps_per_epoch=100, image_size=32, batch_size=6, workers=workers, hflip=0.0)
    trained = [n for batch in numbers(module.train_dataloader()) for n in batch]
    seen = [n for batch in numbers(module.test_dataloader()) for n in batch]
    module.teardown("fit")
    labelled = {role: [n for n in of if "7" not in str(n)] for role, of in NUMBERS.items()}
    assert len(trained) == len(set(trained)) == len(labelled["train"]) // 6 * 6
    assert set(trained) <= set(labelled["train"])
    assert sorted(seen) == labelled["test"]
    assert data.splits.parts["test"].targets.tolist() == [n % 3 for n in seen]
    assert {role: len(rows) for role, rows in data.left_out.items()} == {"train": 4, "test": 1}


def test_images_are_found_again_by_their_places(folder):
    data = module(folder)
    numbers(data.test_dataloader())
    rows = data.stream.splits.parts["test"].rows
    found = [number(images.decode(value)) for value in data.stream.values("test", [12, 0, 3])]
    assert found == [NUMBERS["test"][rows[place]] for place in (12, 0, 3)]
    assert [number(images.decode(value)) for value in data.stream.sample("train", 3)] == [0, 1, 2]


def test_a_stream_that_fills_no_batch_is_an_error(folder):
    with pytest.raises(DatasetError, match="the stream's 45 images do not fill a batch of 100 on every process: lower"):
        list(module(folder, batch=100).train_dataloader())


def test_fewer_than_two_images_per_process_are_refused(folder):
    with pytest.raises(SplitError, match="batches of 5 images cannot be shared by 3 devices with at least 2 images"):
        module(folder, batch=5).check(3)
    with pytest.raises(SplitError, match="--device-batch-size 2 would cut 5 images"):
        module(folder, batch=5, device_batch_size=2).check(1)


def failing(folder, damaged):
    peers = connected()
    data = module(folder)
    torch.distributed.barrier()
    try:
        list(data.train_dataloader())
    except (DatasetError, PeerError) as error:
        return type(error).__name__, str(error), peers.here.rank
    return None


def test_a_shard_that_cannot_be_read_is_named_and_nobody_waits(tmp_path):
    write(tmp_path, sizes={"train": (8, 8), "validation": (2, 3), "test": (5, 1)})
    path = tmp_path / "data/train-00001-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[4:900] = bytes(896)  # the pages of the images; the footer is whole
    path.write_bytes(content)
    found = sorted(ranks(2, failing, tmp_path, path, folder=tmp_path / "ranks"))
    assert [name for name, _, _ in found] == ["DatasetError", "PeerError"]
    assert "shard 1 of split 'train' cannot be read (" in found[0][1]
    assert "another process has failed" in found[1][1]


def test_a_value_that_is_none_of_the_classes_is_named(tmp_path):
    write(tmp_path, lambda numbers: parquet(numbers, declared=False))
    data = stream_source.prepare(str(tmp_path), CLASSIFICATION, classes="2", **NAMES)
    for workers in (0, 1):
        loader = StreamDataModule(data, steps_per_epoch=9, image_size=32, workers=workers).train_dataloader()
        with pytest.raises(
            SchemaError, match=r"of split 'train', from row .*'label' holds 2, which is none of the 2 classes: give"
        ):
            list(loader)


def test_a_split_without_a_single_image_is_an_error(tmp_path):
    write(tmp_path, lambda numbers: parquet(numbers, bad=set(range(45, 52))))
    with pytest.raises(DatasetError, match="the validation split gave no labelled image that decodes: name another"):
        list(module(tmp_path).val_dataloader())
