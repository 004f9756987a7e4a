"""`python -m cards zoo`: a card for every released ResNeSt checkpoint, from what `python -m resnest_timm list` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cards import files
from cards.errors import CardError
from cards.page.text import escape

TEMPLATE = Path(__file__).with_name("zoo.md")
MARK = "<!-- made by python -m cards zoo -->"
"""Ends every card: one without it is somebody's own, and not replaced."""

_CROP = "centre crop of side `short * size / (size + 32)`, then bicubic resize"
_PROTOCOLS = {
    "paper": ("with the weights", f"the authors' PyTorch code, {_CROP}"),
    "gluon": ("with the weights", f"the authors' Gluon code, {_CROP}"),
    "timm": ("by timm", "timm's evaluation with the resize and crop above"),
}
"""Who published the accuracy, and how it was measured."""
_PUBLISHERS = {
    "timm": "https://github.com/huggingface/pytorch-image-models",
    "ResNeSt": "https://github.com/zhanghang1989/ResNeSt",
    "gluon-cv": "https://github.com/dmlc/gluon-cv",
}
_ACCURACIES = {
    "top1": ("Top-1 accuracy", "ImageNet-1k validation"),
    "top5": ("Top-5 accuracy", "ImageNet-1k validation"),
    "v2_top1": ("Top-1 accuracy", "ImageNet-V2, matched frequency"),
}


def rows() -> list[dict[str, Any]]:
    """The zoo, one entry a checkpoint; asked of `resnest_timm` in a process of its own, for it is no import of ours.

    Raises:
        CardError: The package is not there, or fails.
    """
    command = [sys.executable, "-m", "resnest_timm", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CardError(f"`python -m resnest_timm list --json` failed ({reason}): install resnest-timm where cards is")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def build(folder: Path) -> list[Path]:
    """Write FOLDER/NAME/README.md for every checkpoint; the same zoo gives the same bytes.

    Args:
        folder: Made where it is missing. May hold cards of an earlier time, which are replaced.

    Returns:
        Paths of the cards, in the zoo's order.

    Raises:
        CardError: Something else is in the folder, or the zoo cannot be read; then nothing is written.
    """
    texts = {folder / name_of(row) / "README.md": render(row) for row in rows()}
    _check(folder, set(texts))
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text)
    return list(texts)


def name_of(row: dict[str, Any]) -> str:
    """Name of a checkpoint's folder: the Hub repository's, or the file's without its ending."""
    return _source(row).rpartition("/")[2] if row["hub_id"] else PurePosixPath(_source(row)).stem


def render(row: dict[str, Any]) -> str:
    """The card of one checkpoint, an entry of `rows`."""
    published, protocol = _PROTOCOLS[row["protocol"]]
    name, source, model = name_of(row), _source(row), row["authors_name"]
    load = row["architecture"] if row["default"] else f"local-dir:{name}"
    variables = {
        "title": escape(name),
        "model": escape(row["names"][0]) + "".join(f" (the authors' {escape(other)})" for other in row["names"][1:]),
        "names": escape(", ".join(row["names"])),
        "source": escape(source),
        "address": _address(row),
        "digest": _digest(row),
        "parameters": f"{row['parameters']:,}",
        "gmac": f"{row['macs'] / 1e9:.2f}",
        "size": row["image_size"],
        "crop_pct": row["crop_pct"],
        "interpolation": escape(row["interpolation"]),
        "weights_license": escape(row["weights_license"]),
        "code_license": escape(row["code_license"]),
        "accuracies": [
            (title, f"{row[key]:g}", images) for key, (title, images) in _ACCURACIES.items() if row[key] is not None
        ],
        "published": published,
        "protocol": f"Protocol `{row['protocol']}`: {protocol}.",
        "evaluate": _evaluate(row, load),
        "convert": None if row["default"] else _convert(row, name, source, model),
        "why_convert": _why_convert(row),
        "load": load,
        "stock": _stock(row, name),
        "unchecked": row["url"] and row["default"],
        "mark": MARK,
    }
    return str(ModelCard.from_template(_head(row, name), template_path=str(TEMPLATE), **variables)).rstrip("\n") + "\n"


def _head(row: dict[str, Any], name: str) -> ModelCardData:
    publisher = _publisher(row)
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=row["weights_license"].lower(),
        datasets=["ILSVRC/imagenet-1k"],
        tags=["image-classification", "timm", "resnest", "arxiv:2004.08955"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type="ILSVRC/imagenet-1k",
                dataset_name="ImageNet-1k",
                dataset_split="validation",
                metric_type="accuracy",
                metric_name=f"{_ACCURACIES[key][0]} in %, published, protocol {row['protocol']}",
                metric_value=row[key],
                source_name=publisher,
                source_url=_PUBLISHERS[publisher],
            )
            for key in ("top1", "top5")
            if row[key] is not None
        ],
    )


def _source(row: dict[str, Any]) -> str:
    """The Hub's id, or the file's name."""
    return str(row["hub_id"] or row["url"].rpartition("/")[2])


def _address(row: dict[str, Any]) -> str:
    return str(row["url"] or f"https://huggingface.co/{row['hub_id']}")


def _publisher(row: dict[str, Any]) -> str:
    if row["protocol"] == "timm":
        return "timm"
    return "ResNeSt" if row["url"].startswith(_PUBLISHERS["ResNeSt"]) else "gluon-cv"


def _digest(row: dict[str, Any]) -> tuple[str, str] | None:
    if row["sha256"]:
        return "SHA-256 begins with", row["sha256"]
    return ("SHA-1 of the parameters in the zip", row["sha1"]) if row["sha1"] else None


def _evaluate(row: dict[str, Any], load: str) -> str:
    """The command that measures the published number; the protocol of the Gluon code is that of `paper`."""
    protocol = "timm" if row["protocol"] == "timm" else "paper"
    return f"python -m finetune evaluate {load} --dataset imagenet-1k --protocol {protocol}"


def _convert(row: dict[str, Any], name: str, source: str, model: str) -> str:
    digest = f" --sha256 {row['sha256']}" if row["sha256"] else ""
    return f"curl -LO {row['url']}\npython -m resnest_timm convert {source} --model {model} --output {name}{digest}"


def _why_convert(row: dict[str, Any]) -> str:
    if row["protocol"] == "gluon":
        return "The file holds MXNet parameters, which timm cannot read."
    return f"`pretrained=True` takes the weights that the Hub has for {escape(row['architecture'])}, not this file."


def _stock(row: dict[str, Any], name: str) -> str:
    """How timm by itself gets the model."""
    stock = row["stock"]
    if row["hub_id"]:
        return f'Stock timm loads these weights as `timm.create_model("{row["architecture"]}", pretrained=True)`, too.'
    if not row["default"]:
        return f'Stock timm loads the converted folder, too: `timm.create_model("local-dir:{name}", pretrained=True)`.'
    arguments = ", ".join(f"{key}={value!r}" for key, value in stock["arguments"].items())
    return (
        "Stock timm has no model of this name, but builds it as "
        f'`timm.create_model("{stock["architecture"]}", {arguments})`; `python -m resnest_timm convert` makes a folder '
        "that it loads."
    )


def _check(folder: Path, cards: set[Path]) -> None:
    """Raise unless everything in the folder is a card of ours."""
    if folder.exists() and not folder.is_dir():
        raise CardError(f"--output {folder} is a file: name a folder")
    folders = {card.parent for card in cards}
    for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*")) if folder.is_dir() else []:
        if path.parent == folder and path in folders and path.is_dir():
            continue
        ours = (
            path in cards
            and path.is_file()
            and path.read_text(encoding="utf-8", errors="replace").endswith(f"{MARK}\n")
        )
        if not ours and (path.parent == folder or path.parent in folders):
            raise CardError(f"--output {folder} holds {path}, which is no card of the zoo: name another folder")
