"""Lightning data module of a stream: shared by processes and workers without overlap, as many steps on each process."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.console import log
from finetune.data import images
from finetune.data.splits import SplitRows
from finetune.errors import DatasetError, PeerError, SplitError, listing
from finetune.loading import jpeg
from finetune.loading.datamodule import ROWS, Batch, ImageDataModule
from finetune.loading.sampler import cut, micro_batches, process
from finetune.loading.stream_rows import Chunk, StreamRows, merged, prepare_stream_worker
from finetune.loading.stream_source import LeftOut, StreamedImages
from finetune.loading.workers import default_workers

RECENT = 4
"""Lightning asks for a batch ahead, and a loss on its way from a GPU is looked at a batch later."""


class StreamDataModule(ImageDataModule):
    """A stream, ready for Lightning's Trainer, which must have `max_steps`: epochs times `steps_per_epoch`.

    Its loaders have no length. Every training step has exactly `batch_size` images over all processes, and all
    processes end an epoch with the same step; each validation and test image is counted once.

    Args:
        dataset: What `finetune.loading.stream_source.prepare` returned.
        steps_per_epoch: Optimizer steps of an epoch at most; fewer where the stream ends before.
        options: As of `ImageDataModule`.

    Attributes:
        trained: `[N, ...]`, targets of the images that the epoch in progress, or the last one, has trained on, over all
            processes.
        recent: The last micro-batches of this process: epoch, number in it, and int64 `[B, 2]`, shard and row.
    """

    def __init__(self, dataset: StreamedImages, *, steps_per_epoch: int, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.stream, self.steps_per_epoch = dataset, steps_per_epoch
        self.nothing = dataset.schema.encode([])
        self.trained = [self.nothing]
        self.recent: deque[tuple[int, int, Tensor]] = deque(maxlen=RECENT)
        self._group: Any = None

    @property
    def epoch_images(self) -> int:
        """Training images of an epoch that has all its steps."""
        return self.batch_size * self.steps_per_epoch

    def check(self, world: int) -> None:
        """Whether `world` processes can share every batch.

        Raises:
            SplitError: Some process would get too few images.
        """
        if self.batch_size < 2 * world:
            raise SplitError(
                f"batches of {self.batch_size} images cannot be shared by {world} devices with at least 2 images each: "
                "raise --batch-size or lower --devices"
            )
        micro_batches(self.epoch_images, self.batch_size, world, self.device_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: where the training stands, and what the epochs have had."""
        return super().state_dict() | {"targets": torch.from_numpy(self._trained()), "epochs": list(self.stream.epochs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict`: what has been seen of an epoch is read again, and not trained on."""
        super().load_state_dict(state_dict)
        if "counts" in state_dict:  # of an earlier version, which counted classes
            self.trained = [np.repeat(np.arange(len(state_dict["counts"])), state_dict["counts"])]
        else:
            self.trained = [state_dict["targets"].numpy()]
        self.stream.epochs[:] = state_dict["epochs"]

    def teardown(self, stage: str) -> None:
        """After a training, what the last epoch had stands in the dataset's splits; Lightning calls it."""
        if stage == "fit":
            targets, source = self._trained(), self.stream.splits.parts["train"].source
            self.stream.splits.parts["train"] = SplitRows(source, np.arange(len(targets)), targets, whole=True)

    def _trained(self) -> np.ndarray:
        """`trained` as one array, which is kept: a checkpoint may ask for it again."""
        self.trained = [np.concatenate(self.trained)]
        return self.trained[0]

    def train_dataloader(self) -> Any:
        """Random crops, in an order that depends on (seed, epoch), processes and workers."""
        self.check_accumulation(self.micro_batches)
        return TrainStream(self)

    def eval_dataloader(self, role: str, batch_size: int | None = None) -> Any:
        """A whole split, every image on one process."""
        return EvalStream(self, role, batch_size or min(self.batch_size, self.device_batch_size or self.batch_size))

    def chunks(self, role: str, size: int, epoch: int | None = None) -> Iterator[Chunk]:
        """This process's part of a split: shuffled and augmented for an `epoch`, else as it is.

        Raises:
            FinetuneError: A shard cannot be read, or holds something else than the classes.
        """
        rank, world = process()
        transform, read, shuffle = self.eval_transform, images.decode, None
        if epoch is not None:
            transform, read, shuffle = self.train_transform, jpeg.open_jpeg, (self.seed, epoch)
        shape = tuple(self.data_config["input_size"])
        rows = StreamRows(self.stream, role, transform, read, size, shape, rank, world, shuffle)
        wanted = default_workers(self.epoch_images) if self.workers is None else self.workers
        loader = DataLoader(
            rows,
            batch_size=None,
            # More than there are shards would all read the same ones.
            num_workers=min(wanted, max(1, rows.stream.num_shards // world)),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=prepare_stream_worker,
        )
        for chunk in loader:
            if chunk.problem is not None:
                raise chunk.problem
            yield chunk

    def batch_images(self, epoch: int, number: int, ranks: Sequence[int]) -> str:
        """Which images the given processes had in a micro-batch of the training, for a message; all processes ask."""
        own = [places.tolist() for *batch, places in self.recent if batch == [epoch, number] and process()[0] in ranks]
        by_shard: dict[int, list[int]] = {}
        for shard, row in sorted(place for places in itertools.chain(*self.gathered(own)) for place in places):
            by_shard.setdefault(shard, []).append(row)
        rows = (f"rows {listing(found, ROWS)} of shard {shard}" for shard, found in by_shard.items())
        return f"{', '.join(rows)} of split {self.stream.splits.parts['train'].source!r}"

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sums over all processes of int64 `[N]`."""
        if process()[1] == 1:
            return values
        total = torch.from_numpy(np.array(values, dtype=np.int64))
        with _together():
            dist.all_reduce(total, group=self._on_cpus())
        return total.numpy()

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        world = process()[1]
        found = [value] * world
        if world > 1:
            with _together():
                dist.all_gather_object(found, value, group=self._on_cpus())
        return found

    def _on_cpus(self) -> Any:
        """Numbers that come from loaders need not wait for the GPUs."""
        if self._group is None and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")
        return self._group

    def exclude(self, role: str, left_out: list[LeftOut]) -> None:
        """Take note of rows that any process has left out; the first time they are said."""
        everywhere = [row for part in self.gathered(left_out) for row in part]
        if self.stream.exclude(role, everywhere):
            known = self.stream.left_out[role]
            bad = sorted(row for row in known if row.reason is not None)
            example = f" (row {bad[0].row} of shard {bad[0].shard}: {bad[0].reason})" if bad else ""
            name = self.stream.splits.parts[role].source
            log.info(
                f"left out of {name!r} so far: {len(bad)} images that do not decode{example}, {len(known) - len(bad)} "
                "rows without a label"
            )


@contextmanager
def _together() -> Iterator[None]:
    """What all processes do at once, or none."""
    try:
        yield
    except RuntimeError as error:  # gloo: connection closed by peer
        raise PeerError("another process has failed, see its message") from error


class _Stream:
    """What Lightning asks a loader for that may go on within an epoch."""

    def __init__(self, module: StreamDataModule) -> None:
        self.module = module

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember here, see `StreamDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore here."""


class TrainStream(_Stream):
    """An epoch of `steps_per_epoch` steps, or as many as the process with the fewest images can fill."""

    def __init__(self, module: StreamDataModule) -> None:
        super().__init__(module)
        self.position = dict(module.position)

    def __iter__(self) -> Iterator[Batch]:
        module = self.module
        # Lightning makes the first iterator before it restores its loops.
        epoch = max(self.position["epoch"], module.trainer.current_epoch if module.trainer else 0)
        skip = self.position["step"] if epoch == self.position["epoch"] else 0
        rank, world = process()
        share = int(np.diff(cut(module.batch_size, world))[rank])
        chunks = merged(module.chunks("train", share, epoch), share)
        steps, left_over = 0, None
        seen, following = [module.nothing], module.nothing
        while steps < module.steps_per_epoch:
            chunk = next(chunks, None)
            found = module.summed(_said(chunk, share, module.batch_size, module.nothing))
            full, left_out = found[:2].tolist()
            if left_out:
                module.exclude("train", chunk.left_out if chunk else [])
            if full < world:
                left_over = self._left_over(chunk, chunks)
                break
            # What has been trained on, now that Lightning, which is one batch ahead, asks for another one.
            seen.append(following)
            module.trained, steps = seen, steps + 1
            following = _targets(found[2:], module.batch_size, module.nothing)
            if chunk is not None and steps > skip:
                yield from self._micro(chunk, epoch, steps - 1)
        module.trained = [*seen, following]
        self._end(epoch, steps, left_over)

    def _micro(self, chunk: Chunk, epoch: int, step: int) -> Iterator[Batch]:
        """A process's share of a batch in near-equal parts, as `finetune.loading.sampler.TrainBatches` cuts it."""
        parts = self.module.micro_batches
        bounds = cut(len(chunk.targets), parts).tolist()
        for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
            self.module.recent.append((epoch, step * parts + part, chunk.places[start:stop]))
            yield chunk.pixels[start:stop], chunk.targets[start:stop]

    def _left_over(self, chunk: Chunk | None, chunks: Iterator[Chunk]) -> int:
        """Images that do not fill a batch on every process, over all of them."""
        rest = [part for part in (chunk, *chunks) if part is not None]
        if self.module.summed(np.array([sum(len(part.left_out) for part in rest[1:])]))[0]:
            self.module.exclude("train", [row for part in rest[1:] for row in part.left_out])
        return int(self.module.summed(np.array([sum(len(part.targets) for part in rest)]))[0])

    def _end(self, epoch: int, steps: int, left_over: int | None) -> None:
        module, size = self.module, self.module.batch_size
        if steps == 0:
            raise DatasetError(
                f"the stream's {left_over} images do not fill a batch of {size} on every process: lower --batch-size, "
                "--devices or --workers"
            )
        module.stream.epochs[epoch:] = [{"steps": steps, "images": steps * size, "left_over": left_over}]
        if left_over is None and epoch == 0:  # each epoch begins at the first rows of its shards
            log.info(
                f"epoch 1: --steps-per-epoch ended it: what {steps} steps do not reach of a shard is never trained on; "
                "where the stream is longer, raise it until an epoch says how many images were left over"
            )
        if left_over is not None:
            log.info(
                f"epoch {epoch + 1}: the stream ended after {steps} of {module.steps_per_epoch} steps; its last "
                f"{left_over} images do not fill a batch of {size} over all processes, and were left out"
            )


def _said(chunk: Chunk | None, share: int, batch_size: int, nothing: np.ndarray) -> np.ndarray:
    """What a process says of its share of a batch, so that the sum over all processes is what all of them say.

    Args:
        chunk: The share; None at the end of the stream.
        share: Images that fill it.
        batch_size: Images over all processes.
        nothing: Targets of no image: their dtype and shape.

    Returns:
        int64: whether the share is full, rows left out, and then the bytes of the batch's targets: zero but for those
        of this process, so that all processes' bytes stand side by side in the sum.
    """
    size = nothing.dtype.itemsize * int(np.prod(nothing.shape[1:]))
    held = np.zeros(-(-batch_size * size // 8) * 8, dtype=np.uint8)
    if chunk is None:
        return np.concatenate([np.zeros(2, dtype=np.int64), held.view(np.int64)])
    full = len(chunk.targets) == share
    if full:
        rank, world = process()
        start = int(cut(batch_size, world)[rank]) * size
        held[start : start + share * size] = np.ascontiguousarray(chunk.targets.numpy()).view(np.uint8).ravel()
    return np.concatenate([np.array([full, len(chunk.left_out)], dtype=np.int64), held.view(np.int64)])


def _targets(words: np.ndarray, batch_size: int, nothing: np.ndarray) -> np.ndarray:
    """The targets of a batch, of the bytes that `_said` has made of them."""
    size = nothing.dtype.itemsize * int(np.prod(nothing.shape[1:]))
    held = np.ascontiguousarray(words).view(np.uint8)[: batch_size * size]
    return held.view(nothing.dtype).reshape(batch_size, *nothing.shape[1:])


class EvalStream(_Stream):
    """A whole split; processes that have come to their end give empty batches until all have.

    Then the split's rows and labels are those that were given, first process first, each in its order.
    """

    def __init__(self, module: StreamDataModule, role: str, size: int) -> None:
        super().__init__(module)
        self.role, self.size = role, size

    def __iter__(self) -> Iterator[Batch]:
        module, seen = self.module, []
        chunks = module.chunks(self.role, self.size)
        empty = torch.empty(0, *module.data_config["input_size"], dtype=torch.uint8)
        for chunk in itertools.chain(chunks, itertools.repeat(None)):
            if not module.summed(np.array([chunk is not None]))[0]:
                break
            if chunk is not None:
                seen.append(chunk._replace(pixels=empty))
            yield (empty, torch.from_numpy(module.nothing)) if chunk is None else (chunk.pixels, chunk.targets)
        self._end(seen)

    def _end(self, seen: list[Chunk]) -> None:
        """Brings together what all processes have counted."""
        module, stream = self.module, self.module.stream
        module.exclude(self.role, [row for chunk in seen for row in chunk.left_out])
        own = (
            np.concatenate([np.empty((0, 2), dtype=np.int64), *(chunk.places.numpy() for chunk in seen)]),
            np.concatenate([module.nothing, *(chunk.targets.numpy() for chunk in seen)]),
            {shard: length for chunk in seen for shard, length in chunk.lengths.items()},
        )
        found = module.gathered(own)
        places, labels = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        lengths = {shard: length for _, _, part in found for shard, length in part.items()}
        if not len(labels):
            raise DatasetError(
                f"the {self.role} split gave no labelled image that decodes: name another one by "
                f"{'--val-split' if self.role == 'validation' else '--test-split'}"
            )
        starts = np.cumsum([0, *(lengths[shard] for shard in sorted(lengths))])
        rows = starts[places[:, 0]] + places[:, 1]
        name = stream.splits.parts[self.role].source
        stream.splits.parts[self.role] = SplitRows(name, rows, labels, whole=len(rows) == starts[-1])
