"""A checkpoint's file -> a folder that goes to the Hub as it is, and that stock timm loads strictly."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import timm

from resnest_timm.convert import checkpoint_file, names
from resnest_timm.convert.card import Conversion, input_note, render
from resnest_timm.convert.checkpoint_file import CheckpointFile
from resnest_timm.convert.names import Converted
from resnest_timm.errors import ConversionError, UsageError
from resnest_timm.stock import PROVENANCE, stock_config, stock_form
from resnest_timm.zoo.catalogue import CHECKPOINTS, Checkpoint

# The authors' detectron2 configs and mmdetection's ResNeSt configs, RGB, 0 to 255; mmsegmentation's keep ImageNet's.
DETECTION_MEAN, DETECTION_STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)


def convert_file(path: Path, model: str, folder: Path, sha256: str | None = None) -> Conversion:
    """Convert a checkpoint; the folder appears whole or not at all.

    Args:
        path: Checkpoint of one of `convert.LAYOUTS`, in a format of `checkpoint_file.read`.
        model: Any name of the variant.
        folder: To make; it must not exist, or be empty.
        sha256: First digits that the file's SHA-256 must have.

    Raises:
        UsageError: Unknown model, occupied folder, or `sha256` that is not hexadecimal.
        ConversionError: The file is not what it should be; the message says why.
    """
    architecture = names.architecture_of(model)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{4,64}", sha256):
        raise UsageError(f"--sha256 must be 4 to 64 hexadecimal digits, got {sha256!r}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"--output {folder} exists and is not an empty folder; name another, or remove it")
    digest = checkpoint_file.digest(path)
    if sha256 is not None and not digest.startswith(sha256.lower()):
        raise ConversionError(f"{path} has SHA-256 {digest}, expected {sha256.lower()}...: it is damaged or another "
                              "file; do not use it")  # fmt: skip
    source = checkpoint_file.read(path, digest)
    released = identify(source, architecture)
    try:
        converted = names.convert(source.tensors, architecture)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    return _write(architecture, source, converted, released, folder)


def identify(source: CheckpointFile, architecture: str) -> Checkpoint | None:
    """The released checkpoint that a file is, by its hash.

    Raises:
        ConversionError: It is one of another variant, or it bears a released file's name but not its hash.
    """
    for row in CHECKPOINTS:
        same = (row.sha256 and source.sha256.startswith(row.sha256)) or (row.sha1 and source.member_sha1 == row.sha1)
        if same and row.architecture != architecture:
            raise ConversionError(
                f"{source.path} is the released {row.authors_name} ({row.file}), not {architecture}: give --model "
                f"{row.authors_name}"
            )
        if same:
            return row
        if row.file and Path(row.file).stem == source.path.stem and (row.sha256 or source.member_sha1):
            raise ConversionError(
                f"{source.path} bears the name of the released {row.file} but not its hash: it is damaged or another "
                "file. Fetch it again; rename a file of your own"
            )
    return None


def _write(
    architecture: str, source: CheckpointFile, converted: Converted, released: Checkpoint | None, folder: Path
) -> Conversion:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        temporary.mkdir(parents=True)
        weights = temporary / "model.safetensors"
        state = {name: tensor.contiguous() for name, tensor in converted.state.items()}
        safetensors.torch.save_file(state, weights, metadata={"format": "pt"})
        done = Conversion(architecture, source, converted, released, checkpoint_file.digest(weights), folder)
        config = hub_config(done, temporary / "config.json")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(render(done, config), encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # it was empty when the conversion began
        temporary.rename(folder)
    except OSError as error:
        raise ConversionError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def hub_config(done: Conversion, path: Path) -> dict[str, Any]:
    """Timm's config.json, with an architecture that stock timm has.

    Args:
        done: The conversion.
        path: Where timm may write a draft.
    """
    converted, released = done.converted, done.released
    model: Any = timm.create_model(done.architecture, num_classes=converted.num_classes, device="meta")
    architecture, arguments = stock_form(done.architecture, {})
    pretrained: dict[str, Any] = {**model.pretrained_cfg, "num_classes": converted.num_classes}
    if released is not None:
        side = released.image_size
        pretrained |= {"input_size": (3, side, side), "pool_size": (side // 32, side // 32)}
        pretrained |= {"crop_pct": released.crop_pct, "interpolation": released.interpolation, "tag": released.tag}
    else:
        pretrained = {key: value for key, value in pretrained.items() if key not in PROVENANCE}
    if converted.is_detector:
        pretrained |= {"mean": tuple(value / 255 for value in DETECTION_MEAN)}
        pretrained |= {"std": tuple(value / 255 for value in DETECTION_STD)}
    model.pretrained_cfg = pretrained
    return stock_config(model, architecture, arguments, path)


def report(done: Conversion) -> str:
    """What a conversion did, in a few lines for a terminal."""
    source, converted, row = done.source, done.converted, done.released
    lines = [
        f"{done.architecture}: {len(converted.state)} tensors, {converted.num_classes or 'no'} classes",
        f"source  {source.path} ({source.kind}; {names.LAYOUTS[converted.layout]})",
        f"        sha256 {source.sha256}",
        f"        {'the released ' + (row.url or row.source) if row else 'not a released file whose hash is known'}",
        f"result  {done.folder}",
        f"        sha256 {done.sha256} (model.safetensors)",
    ]
    if converted.left_out:
        lines.append(f"left out: {', '.join(f'{count} of {name}' for name, count in converted.left_out.items())}")
    if not converted.num_classes:
        config = json.loads((done.folder / "config.json").read_text(encoding="utf-8"))
        lines.append(f"input: {input_note(done, config)}")
    return "\n".join(lines)
