"""The card of a converted checkpoint: where it comes from, its hashes, what its input must be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnest_timm.convert.checkpoint_file import CheckpointFile
from resnest_timm.convert.names import LAYOUTS, Converted
from resnest_timm.zoo.catalogue import Checkpoint

_PROTOCOLS = {
    "paper": "the authors' PyTorch code, centre crop of side `short * size / (size + 32)`, bicubic",
    "gluon": "the authors' Gluon code, centre crop of side `short * size / (size + 32)`, bicubic",
    "timm": "timm's results",
}


@dataclass(frozen=True)
class Conversion:
    """What a conversion read and wrote.

    Attributes:
        architecture: Name of the model.
        source: The file it came from.
        converted: The weights.
        released: Row of the zoo whose hash the file has, if one has it.
        sha256: Of the written model.safetensors.
        folder: Where it lies.
    """

    architecture: str
    source: CheckpointFile
    converted: Converted
    released: Checkpoint | None
    sha256: str
    folder: Path


def render(done: Conversion, config: dict[str, Any]) -> str:
    """The text of README.md."""
    released = done.released
    names = released.names if released else (done.architecture,)
    header = ["---", "library_name: timm", "tags:", "- timm", "- resnest"]
    if done.converted.num_classes:
        header.append("pipeline_tag: image-classification")
    if released:
        header.append(f"license: {released.weights_license.lower()}")
    title = f"# {' = '.join(names)}, converted for timm"
    parts = ["\n".join([*header, "---"]), title, _origin(done), _files(done), _input(done, config), _use(done, config)]
    return "\n\n".join(parts) + "\n"


def _origin(done: Conversion) -> str:
    row = done.released
    if row is None:
        return (
            "The source is none of the released files whose hash is known to resnest_timm: who trained it, on what and "
            "under which licence, this conversion cannot say. Nothing was evaluated."
        )
    where = row.url or f"https://huggingface.co/{row.hub_id}"
    return (
        f"The released weights {where} (weights {row.weights_license}, code {row.code_license}; ImageNet's own terms "
        f"apply to what was trained on it). Published ImageNet top-1: {row.top1} % at {row.image_size} px "
        f"({_PROTOCOLS[row.protocol]}); not measured again here. Paper: https://arxiv.org/abs/2004.08955."
    )


def _files(done: Conversion) -> str:
    source, converted = done.source, done.converted
    lines = [
        "| | |",
        "|---|---|",
        f"| source | `{source.path.name}` ({source.kind}; {LAYOUTS[converted.layout]}) |",
        f"| SHA-256 of the source | `{source.sha256}` |",
        f"| SHA-256 of `model.safetensors` | `{done.sha256}` |",
        f"| classes | {converted.num_classes or 'none: a backbone without classifier'} |",
    ]
    if source.member_sha1:
        lines.insert(4, f"| SHA-1 of the MXNet parameters | `{source.member_sha1}` |")
    if converted.left_out:
        rest = ", ".join(f"{count} of `{name}`" for name, count in converted.left_out.items())
        lines.append(f"| tensors left out | {rest} |")
    return "\n".join(lines)


def _input(done: Conversion, config: dict[str, Any]) -> str:
    return f"## Input\n\n{input_note(done, config)}"


def input_note(done: Conversion, config: dict[str, Any]) -> str:
    """What the model's input must be, in one paragraph."""
    cfg = config["pretrained_cfg"]
    mean, std = ([round(value, 5) for value in cfg[key]] for key in ("mean", "std"))
    note = f"RGB in [0, 1], minus mean {mean}, divided by std {std}, as `config.json` says."
    if done.converted.num_classes:
        return note
    pixels = [[round(255 * value, 3) for value in cfg[key]] for key in ("mean", "std")]
    detector = "what the authors' detectron2 configs and mmdetection's ResNeSt configs use"
    whose = detector if done.converted.is_detector else "ImageNet's, which mmsegmentation's ResNeSt configs use too"
    return (
        f"{note} On pixels of 0 to 255: mean {pixels[0]} and std {pixels[1]}: {whose}. The checkpoint does "
        "not say how its input was normalised; if its config has another mean, std or channel order (detectron2's "
        "defaults: BGR and std 1), use that."
    )


def _use(done: Conversion, config: dict[str, Any]) -> str:
    extra = ", features_only=True" if not done.converted.num_classes else ""
    arguments = config["model_args"]
    form = f" with `{json.dumps(arguments)}`" if arguments else ""
    code = f'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True{extra})'
    return (
        f"## Use\n\n```python\n{code}\n```\n\nStock timm builds it as `{config['architecture']}`{form}. "
        "`import resnest_timm` makes its dilated forms and its stochastic depth the authors' too.\n\n"
        "Converted by `python -m resnest_timm convert`."
    )
