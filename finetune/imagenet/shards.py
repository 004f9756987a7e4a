"""Which image belongs to which shard, and the writing of one: a shard depends on nothing but its own images.

Train images are shuffled over all shards, and within each: a reader that streams sees every class in every row group,
which a class after another (the tar's order) would not give it, whatever its shuffle buffer. The order is that of a
hash of the file names: no state, no library's generator. The price is that the train tar is read in 1.3 million places;
the kernel is told the next row group's places ahead, so that it can fetch them in the best order. Validation images
keep the order of their numbers, which image-net.org has shuffled.

The JPEG bytes are stored as they are, uncompressed: zstd finds a few hundred bytes in an image's header (measured on
JPEGs of 10 and 21 kB), below 1 % of ImageNet's 110 kB, and makes every read slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import DatasetError, OutputError
from finetune.imagenet.workers import advance

ROW_GROUP = 100  # images; 11 MB of ImageNet: what a streaming reader holds at a time


@dataclass(frozen=True)
class Shard:
    """A file to be.

    Attributes:
        name: `train-00003-of-00294.parquet`.
        tar: The outer tar that holds its images.
        members: `tars.MEMBERS`, the rows in order.
    """

    name: str
    tar: Path
    members: np.ndarray


@dataclass(frozen=True)
class Record:
    """A file that is complete."""

    name: str
    images: int
    bytes: int
    sha256: str

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """Read a record; None where there is none, or none that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def shuffled(members: np.ndarray) -> np.ndarray:
    """Members in the order of a hash of their names."""
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in members["name"].tolist())
    in_order: np.ndarray = members[np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable")]
    return in_order


def divide(split: str, tar: Path, members: np.ndarray, size: int) -> list[Shard]:
    """Cut a split into shards of nearly equal size.

    Args:
        split: Its name.
        tar: That holds the images.
        members: The images, in order.
        size: About how many bytes of images a shard may have; at least 1.
    """
    ends = np.cumsum(members["size"])
    count = -(-int(ends[-1]) // size)
    # In which of `count` equal stretches of bytes an image begins; where images are large some stretch has none.
    stretch = (ends - members["size"]).astype(np.float64) / float(ends[-1]) * count
    parts = np.split(members, np.flatnonzero(np.diff(stretch.astype(np.int64))) + 1)
    return [Shard(f"{split}-{i:05}-of-{len(parts):05}.parquet", tar, part) for i, part in enumerate(parts)]


def write(shard: Shard, schema: bytes, data: Path, records: Path) -> Record:
    """Write a shard, whole or not at all, and then its record.

    Args:
        shard: What to write.
        schema: Arrow's serialised schema, with the features in the metadata as the datasets library has them.
        data: Folder of the shards.
        records: Folder of the records.

    Raises:
        DatasetError: The tar cannot be read.
        OutputError: The shard cannot be written.
    """
    arrow_schema = pa.ipc.read_schema(pa.py_buffer(schema))
    path = data / shard.name
    try:
        with replacing(path) as temporary:
            _write_rows(shard, arrow_schema, temporary)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            record = Record(shard.name, len(shard.members), temporary.stat().st_size, digest)
        with replacing(record_path(records, shard.name)) as temporary:
            temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make room, or mend the disk, and give the same command "
            "again: it goes on from there"
        ) from error
    return record


def record_path(records: Path, name: str) -> Path:
    """Where the record of a shard lies."""
    return records / f"{name}.json"


def _write_rows(shard: Shard, schema: pa.Schema, path: Path) -> None:
    groups = [shard.members[start : start + ROW_GROUP] for start in range(0, len(shard.members), ROW_GROUP)]
    # Statistics of the images would be copies of images.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": ["label"]}
    with _opened(shard.tar) as tar, pq.ParquetWriter(path, schema, **options) as writer:
        _announce(tar, groups[0])
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            if following is not None:
                _announce(tar, following)
            writer.write_table(_table(tar, shard.tar, group, schema))
            advance(len(group))


def _table(tar: int, path: Path, members: np.ndarray, schema: pa.Schema) -> pa.Table:
    encoded = [_read(tar, path, member) for member in members]
    names = [name.decode("ascii") for name in members["name"].tolist()]
    images = pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.array(names)], names=["bytes", "path"])
    return pa.Table.from_arrays([images, pa.array(members["label"])], schema=schema)


def _read(tar: int, path: Path, member: np.void) -> bytes:
    size = int(member["size"])
    try:
        found = os.pread(tar, size, int(member["offset"]))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): fetch it again") from error
    if len(found) != size:
        raise DatasetError(f"{path} has become shorter while it was read: give the same command again")
    return found


def _announce(tar: int, members: np.ndarray) -> None:
    """Tell the kernel what is read next, so that it reads ahead in its own order."""
    if sys.platform == "linux":
        for member in members:
            os.posix_fadvise(tar, int(member["offset"]), int(member["size"]), os.POSIX_FADV_WILLNEED)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there takes its place once it is safe on the disk.

    The name holds the process's number: what a killed run's last process writes while it dies harms nobody.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        if sys.platform != "win32":  # there a folder cannot be opened
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
