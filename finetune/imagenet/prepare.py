"""The flow: checksums -> devkit -> where each image lies -> shards, in several processes -> a dataset's folder."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.console import log
from finetune.errors import Interrupted, OutputError
from finetune.imagenet import card, checksums, devkit, shards, tars
from finetune.imagenet.devkit import Devkit
from finetune.imagenet.folder import OutputFolder, Plan, Tar
from finetune.imagenet.shards import Record, Shard
from finetune.imagenet.workers import Workers


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        folder: Of the dataset.
        splits: By name, how many `images`, `shards` and `bytes` of images.
    """

    folder: Path
    splits: dict[str, dict[str, int]]


def prepare(
    tars_folder: Path,
    output: Path,
    *,
    processes: int | None = None,
    shard_size: float = 500,
    sums: Mapping[str, str] | None = checksums.OFFICIAL,
) -> Prepared | None:
    """Make a dataset's folder from ImageNet's tars, or go on with making it.

    It starts processes afresh, so a script of yours calls it under `if __name__ == "__main__":`. Not on
    Windows, which cannot read a file at a place (`os.pread`).

    Args:
        tars_folder: Folder of the three original files.
        output: Folder to make.
        processes: How many write shards; as many as there are cores at hand when not given.
        shard_size: Megabytes of images in a shard, about.
        sums: MD5 sums of the tars by name; None not to look.

    Returns:
        What was made; None where it was complete already.

    Raises:
        DatasetError: A tar is missing, or not as it should be.
        OutputError: The folder holds something else, is of other tars, or cannot be written.
        Interrupted: By Ctrl-C; the same call goes on.
    """
    paths = tars.find(tars_folder)
    folder = OutputFolder(output)
    known = folder.plan()
    plan, unverified = _look(paths, int(shard_size * 1e6), sums, known)
    _compare(folder, known, plan)
    try:
        if folder.complete:
            checksums.verify(unverified, sums or {})
            folder.tidy()
            log.info(f"{folder.path} is complete already, from the same tars")
            return None
        with folder.open(), Workers(processes or _cores()) as workers:
            checksums.verify(unverified, sums or {})
            folder.begin(plan)
            kit, planned = _plan_shards(paths, plan.shard_size, workers)
            records = _write(planned, kit, folder, workers)
            prepared = Prepared(folder.path, {split: _count(part) for split, part in planned.items()})
            texts = {"README.md": card.readme(kit, prepared.splits), "classes.json": card.classes_json(kit)}
            folder.finish(_flat(planned), records, texts)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped; the same command goes on after the last complete shard") from error
    _report(prepared, records)
    return prepared


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _look(
    paths: Mapping[str, Path], shard_size: int, sums: Mapping[str, str] | None, known: Plan | None
) -> tuple[Plan, dict[str, Path]]:
    """What is asked for, and the files whose sums are still to be verified: not those that were, and are untouched."""
    found, unverified = {}, {}
    for name, path in paths.items():
        stat = path.stat()
        tar = Tar(stat.st_size, stat.st_mtime_ns)
        before = known.tars[name] if known else tar
        md5 = before.md5 if tar.same(dataclasses.replace(before, md5=None)) else None
        if sums is not None and md5 != sums[name]:
            md5, unverified[name] = sums[name], path
        found[name] = dataclasses.replace(tar, md5=md5)
    return Plan(shard_size, found), unverified


def _compare(folder: OutputFolder, known: Plan | None, plan: Plan) -> None:
    differences = known.differences(plan) if known else []
    if differences:
        raise OutputError(
            f"--output: {folder.path} was begun with {'; '.join(differences)}. Give what it was begun with, another "
            "--output, or remove it"
        )


def _plan_shards(paths: Mapping[str, Path], shard_size: int, workers: Workers) -> tuple[Devkit, dict[str, list[Shard]]]:
    kit = devkit.read(paths[tars.DEVKIT])
    train, validation = paths[tars.TRAIN], paths[tars.VALIDATION]
    classes = tars.find_classes(train, kit.labels)
    scans: list[Callable[[], np.ndarray]] = [functools.partial(tars.scan_validation, validation, kit.validation)]
    scans += [functools.partial(tars.scan_class, tar) for tar in classes]
    found = workers.run(scans, "reading the tars' headers", "tars", total=len(scans))
    members = {"train": shards.shuffled(np.concatenate(found[1:])), "validation": found[0]}
    sources = {"train": train, "validation": validation}
    planned = {split: shards.divide(split, sources[split], members[split], shard_size) for split in members}
    for split, part in planned.items():
        log.info(f"{split}: {_count(part)['images']:,} images of {len(kit.classes):,} classes in {len(part):,} shards")
    return kit, planned


def _flat(planned: Mapping[str, Sequence[Shard]]) -> list[Shard]:
    return [shard for part in planned.values() for shard in part]


def _count(part: Sequence[Shard]) -> dict[str, int]:
    return {
        "images": sum(len(shard.members) for shard in part),
        "shards": len(part),
        "bytes": sum(int(shard.members["size"].sum()) for shard in part),
    }


def _write(planned: Mapping[str, Sequence[Shard]], kit: Devkit, folder: OutputFolder, workers: Workers) -> list[Record]:
    """Write the shards that are not there yet; the records of all."""
    every = _flat(planned)
    records = {shard.name: record for shard in every if (record := folder.record(shard))}
    left = [shard for shard in every if shard.name not in records]
    if records:
        log.info(f"going on: {len(records):,} of {len(every):,} shards are there already")
    done, total = (_count([shard for shard in every if shard.name in records]), _count(every))
    folder.check_room(total["bytes"] - done["bytes"])
    schema = _schema(kit)
    calls = [functools.partial(shards.write, shard, schema, folder.new_data, folder.records) for shard in left]
    written = workers.run(calls, "writing", "images", total["images"], done["images"])
    records |= {record.name: record for record in written}
    return [records[shard.name] for shard in every]


def _schema(kit: Devkit) -> bytes:
    """Arrow's schema of the two columns with the library's own metadata, serialised."""
    from datasets import ClassLabel, Features, Image

    features = Features(image=Image(), label=ClassLabel(names=kit.names))
    serialised: bytes = features.arrow_schema.serialize().to_pybytes()
    return serialised


def _report(prepared: Prepared, records: Sequence[Record]) -> None:
    images = ", ".join(f"{facts['images']:,} {split} images" for split, facts in prepared.splits.items())
    size = sum(record.bytes for record in records)
    folder = shlex.quote(str(prepared.folder))
    log.info(f"wrote {images} in {len(records):,} shards, {size / 1e9:.3f} GB, to {prepared.folder}")
    log.info(f"check: cd {folder} && sha256sum -c checksums.sha256")
    log.info(f"next:  python -m finetune --recipe imagenet --model resnest50 --dataset {folder}")
