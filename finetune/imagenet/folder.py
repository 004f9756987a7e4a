"""The output folder: what of it is done, whether it is of the same tars, and how it becomes whole in one step.

DIR/.unfinished/      while it is being made: plan.json, data/, records/; hidden, so that no reader takes it for all
DIR/data/             moved here last: where it is, the dataset is complete
DIR/README.md         splits and features, as the datasets library reads them
DIR/classes.json      class index, WordNet id, ILSVRC2012_ID, words and gloss
DIR/checksums.sha256  of the shards, for `sha256sum -c`
DIR/prepared.json     from which tars, in which way
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import FinetuneError, OutputError
from finetune.imagenet.shards import Record, Shard, record_path, replacing

FORMAT = 1  # to be raised when the same tars would give other bytes


@dataclass(frozen=True)
class Tar:
    """One of the three files; without a known MD5 sum it is told from another by its size and time.

    Attributes:
        bytes: Its size.
        modified: Its modification time in nanoseconds.
        md5: Its MD5 sum where that was computed.
    """

    bytes: int
    modified: int
    md5: str | None = None

    def same(self, other: Tar) -> bool:
        """Whether both are one file, for all that is known."""
        if self.md5 and other.md5:
            return (self.bytes, self.md5) == (other.bytes, other.md5)
        return (self.bytes, self.modified) == (other.bytes, other.modified)


@dataclass(frozen=True)
class Plan:
    """From what the shards are made, and how: the bytes depend on nothing else."""

    shard_size: int
    tars: dict[str, Tar]
    format: int = FORMAT

    def differences(self, asked: Plan) -> list[str]:
        """What `asked` has other than this plan, in words."""
        found = []
        if self.format != asked.format:
            found.append(f"format {self.format}, now {asked.format}")
        if self.shard_size != asked.shard_size:
            found.append(f"--shard-size {self.shard_size / 1e6:g}, now {asked.shard_size / 1e6:g}")
        for name, tar in self.tars.items():
            other = asked.tars[name]
            if tar.bytes != other.bytes:
                found.append(f"{name} of {tar.bytes} bytes, now {other.bytes}")
            elif not tar.same(other):
                found.append(f"another {name}, which was changed since")
        return found

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """Read a plan; None where there is none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            tars = {name: Tar(**tar) for name, tar in values["tars"].items()}
            return cls(values["shard_size"], tars, values["format"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{path} cannot be read: remove {path.parent}, or give another --output") from error


class OutputFolder:
    """The folder that `--output` names.

    Raises:
        OutputError: It holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.data = self.path / "data"
        self.unfinished = self.path / ".unfinished"
        self.new_data = self.unfinished / "data"
        self.records = self.unfinished / "records"
        self._lock = filelock.FileLock(self.unfinished / "lock", timeout=0)
        self.complete = self.data.is_dir() and (self.path / "prepared.json").is_file()
        empty = not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        if not (empty or self.complete or self.unfinished.is_dir()):
            raise OutputError(
                f"--output: {self.path} is neither empty nor a dataset of this command: give another folder"
            )

    def plan(self) -> Plan | None:
        """From what the shards in it were made."""
        return Plan.load(self.path / "prepared.json" if self.complete else self.unfinished / "plan.json")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Make the folder, and keep other processes out; after a mistake nothing remains, unless a shard is done.

        Raises:
            OutputError: It cannot be made, or another process is at work in it.
        """
        try:
            for folder in (self.new_data, self.records):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise OutputError(f"another process is preparing {self.path}: wait for it, or end it") from error
        except OSError as error:
            raise OutputError(f"--output: cannot make {self.path}: {error.strerror}; give another folder") from error
        try:
            for leftover in self.unfinished.rglob("*.part"):  # of a run that was killed
                leftover.unlink()
            yield
        except FinetuneError:
            if not any(self.records.glob("*.json")):
                self.tidy()
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise
        else:
            self.tidy()
        finally:
            self._lock.release()

    def tidy(self) -> None:
        """Remove what is needed only while the dataset is being made."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def begin(self, plan: Plan) -> None:
        """Note from what the shards are made."""
        _write(self.unfinished / "plan.json", json.dumps(asdict(plan), indent=2) + "\n")

    def record(self, shard: Shard) -> Record | None:
        """A shard's record, where the shard is complete."""
        record = Record.load(record_path(self.records, shard.name))
        path = self.new_data / shard.name
        whole = record is not None and path.is_file() and path.stat().st_size == record.bytes
        return record if whole else None

    def check_room(self, needed: int) -> None:
        """Look whether so many bytes fit.

        Raises:
            OutputError: They do not.
        """
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OutputError(
                f"--output: {self.path} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: make room, or "
                "give a folder on another disk"
            )

    def finish(self, shards: Sequence[Shard], records: Sequence[Record], texts: Mapping[str, str]) -> None:
        """Count the images once more, write what surrounds the shards, and put everything into its place.

        Args:
            shards: As planned.
            records: As written, in the same order.
            texts: Further files, by name.

        Raises:
            OutputError: A shard does not hold what it should.
        """
        for shard, record in zip(shards, records, strict=True):
            _check(self.new_data / shard.name, shard, record)
        manifest = "".join(f"{record.sha256}  data/{record.name}\n" for record in records)
        plan = (self.unfinished / "plan.json").read_text(encoding="utf-8")
        for name, text in {**texts, "checksums.sha256": manifest, "prepared.json": plan}.items():
            _write(self.path / name, text)
        os.replace(self.new_data, self.data)
        self.complete = True


def _check(path: Path, shard: Shard, record: Record) -> None:
    try:
        found, size = pq.read_metadata(path).num_rows, path.stat().st_size
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{path} cannot be read: remove it, and give the same command again") from error
    if not found == record.images == len(shard.members) or size != record.bytes:
        raise OutputError(
            f"{path} holds {found} images in {size} bytes, expected {len(shard.members)} in {record.bytes}: remove it, "
            "and give the same command again"
        )


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; give the same command again") from error
