"""model/verify.json: that strangers load the model with equal outputs, and of which files that was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cards import tasks
from cards.errors import CardError

NAME = "verify.json"
VERSION = 1
REQUIRED = {"weights_sha256": "model.safetensors", "config_sha256": "config.json"}
EXPORTED = {"onnx_sha256": "model.onnx", "openvino_sha256": "model.xml", "openvino_weights_sha256": "model.bin"}
FILES = REQUIRED | {"finetune_sha256": "finetune.json"} | EXPORTED
"""Key of the certificate -> the file whose SHA-256 it holds; finetune.json and exports only where there are such."""


def check(model: Path) -> dict[str, Any]:
    """Read a model folder's certificate, and make sure that it is one of these very files.

    Args:
        model: Folder with config.json and model.safetensors.

    Returns:
        The content of verify.json.

    Raises:
        CardError: It is missing or broken, some check failed, or a file is another than the one that was verified.
    """
    path = model / NAME
    required = tasks.of_model(model).required
    advice = f"make it by `python -m cards verify {model}`"
    if not path.is_file():
        raise CardError(f"{model} has no certificate (no {NAME}): {advice}")
    try:
        certificate: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checks, version = certificate["checks"], certificate["version"]
        failed = [f"{name} ({failure(entry)})" for name, entry in checks.items() if entry["passed"] is False]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CardError(f"{path} is broken ({type(error).__name__}: {error}): {advice}") from error
    if version != VERSION:
        raise CardError(f"{path}: expected version {VERSION}, got {version!r}: {advice}")
    if certificate.get("passed") is not True or not passed(checks, required):
        raise CardError(
            f"{path}: the model did not pass: {', '.join(failed) or required + ' did not'}. Other programs would not "
            f"get this model's outputs; after mending it {advice.replace('make it', 'verify again')}"
        )
    for key, digest in digests(model).items():
        if certificate.get(key) != digest:
            raise CardError(
                f"{model / FILES[key]} is not the file that was verified: its SHA-256 begins with {digest[:12]}, the "
                f"certificate's with {str(certificate.get(key))[:12]}. To verify what is there now, {advice}"
            )
    return certificate


def passed(checks: Mapping[str, Mapping[str, Any]], required: str = "timm") -> bool:
    """Whether the required library found equal outputs, and none of the others unequal ones."""
    verdicts = {name: entry["passed"] for name, entry in checks.items()}
    return verdicts.get(required) is True and not any(verdict is False for verdict in verdicts.values())


def failure(entry: Mapping[str, Any]) -> str:
    """Why a check failed, in words."""
    if "reason" in entry:
        return str(entry["reason"])
    answers = entry.get("answers", "labels")
    return f"largest difference {entry['largest_difference']:.2g}, {entry['labels_equal']} {answers} equal"


def digests(model: Path) -> dict[str, str]:
    """SHA-256 of the files that a certificate is about, by its keys.

    Raises:
        CardError: The folder holds no model.
    """
    found = {}
    for key, name in FILES.items():
        path = model / name
        if path.is_file():
            with path.open("rb") as stream:
                found[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        elif key in REQUIRED:
            raise CardError(f"{model} holds no model: expected {path}")
    return found
