"""Makes model/verify.json: other libraries load the model in clean processes, and their outputs are compared."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cards import tasks
from cards.certificate import files
from cards.errors import CardError
from cards.files import model_folder

TOLERANCE = 1e-4
"""Of the largest absolute logit: what float32 arithmetic in another order may differ by."""

_CLIENTS = Path(__file__).with_name("clients")
_EXPORTED = {"onnxruntime": "model.onnx", "openvino": "model.xml"}
"""Library -> the file of model/ that it runs."""
_OUTPUTS = {"labels": "logit", "numbers": "number"}
"""What a model gives, by what a library's answer is called."""
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class _Live:
    """What the model gave when it was saved: float32 `[n, C, ...]` logits, and its class names."""

    logits: Any
    classes: list[str]
    boxes: Any = None  # of a detector, float32 `[n, C * 4]`


def verify(folder: Path) -> dict[str, Any]:
    """Load a model in stock timm, transformers and, of exports, their libraries; compare, and write verify.json.

    Each library runs in a process of its own that does not import this project, on a CPU, without network. Two things
    are compared on the real test images in RUN/verify: logits of the same pixels may differ by `TOLERANCE` of the
    largest logit; after the library's own preprocessing of the images each label must be the same (or within twice that
    tolerance of the best). The live model's logits are float32, not optimised or compiled.

    Args:
        folder: A run, or its model/.

    Returns:
        The certificate, see `cards.certificate.files`: `checks` has an entry for each library; one that is not
        installed has `passed` None and a `reason`. A certificate that did not pass is written too.

    Raises:
        CardError: There is no model, or no RUN/verify beside it.
    """
    model, inputs = _folders(folder)
    digests = files.digests(model)
    live = _live(model, inputs)
    exported = {library: name for library, name in _EXPORTED.items() if (model / name).is_file()}
    checks = _run(exported, model, inputs, live)
    for library, name in exported.items():
        if checks[library].pop("weights_sha256", digests["weights_sha256"]) != digests["weights_sha256"]:
            checks[library] |= {"passed": False, "reason": f"{name} was made from other weights; export it again"}
    made = {
        "version": files.VERSION,
        **digests,
        "images": len(live.logits),
        "tolerance": TOLERANCE,
        "checks": checks,
        "passed": files.passed(checks, tasks.of_model(model).required),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    temporary = model / f"{files.NAME}.part"
    temporary.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, model / files.NAME)
    return made


def lines(made: Mapping[str, Any]) -> list[str]:
    """A certificate in words, one line for each library."""
    said = []
    for name, entry in made["checks"].items():
        verdict = {True: "passed", False: "FAILED", None: "not tried"}[entry["passed"]]
        answers = entry.get("answers", "labels")
        detail = entry.get("reason") or (
            f"largest difference {entry['largest_difference']:.1e} of the largest {_OUTPUTS[answers]}, "
            f"{entry['labels_equal']} of {made['images']} {answers} equal"
        )
        said.append(f"{name + ' ' + entry['version'] if 'version' in entry else name}: {verdict}, {detail}")
    return said


def _folders(folder: Path) -> tuple[Path, Path]:
    """model/ and verify/ of a run."""
    model = model_folder(folder)
    model = model.resolve()
    inputs = model.parent / "verify"
    if not (inputs / "inputs.safetensors").is_file():
        files.digests(model)
        raise CardError(
            f"{model}: expected the test images and logits of its run in {inputs}; verify a run that `finetune` made"
        )
    return model, inputs


def _live(model: Path, inputs: Path) -> _Live:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        given = load_file(inputs / "inputs.safetensors")
        own = model / tasks.OURS
        path, key = (own, "classes") if own.is_file() else (model / "config.json", "label_names")
        config = json.loads(path.read_text(encoding="utf-8"))
        return _Live(given["logits"], [str(name) for name in config[key]], given.get("boxes"))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CardError(f"{inputs / 'inputs.safetensors'} or {model / 'config.json'} is broken: {error}") from error


def _run(exported: Mapping[str, str], model: Path, inputs: Path, live: _Live) -> dict[str, dict[str, Any]]:
    """Start all clients at once, for most of their time is imports, and judge each."""
    checks: dict[str, dict[str, Any]] = {}
    task = tasks.of_model(model)
    clients = {**task.clients, **dict.fromkeys(exported, task.runtimes)}
    missing = [library for library in clients if importlib.util.find_spec(library) is None]
    with tempfile.TemporaryDirectory() as scratch:
        outputs = {library: Path(scratch, f"{library}.npz") for library in clients if library not in missing}
        environment = _environment(len(outputs))
        started: dict[str, subprocess.Popen[str]] = {}
        try:
            for library in outputs:
                # -P: what lies beside the script does not come before the libraries.
                command = [sys.executable, "-P", "-W", "ignore", str(_CLIENTS / f"{clients[library]}.py")]
                pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
                started[library] = subprocess.Popen(command, text=True, cwd=scratch, env=environment, **pipes)
            for library in clients:
                if library in missing:
                    checks[library] = {"passed": None, "reason": f"{library} is not installed"}
                    continue
                request = {"model": str(model), "verify": str(inputs), "output": str(outputs[library])}
                request |= {"file": exported[library]} if library in exported else {}
                out, err = started[library].communicate(json.dumps(request))
                checks[library] = _judge(started[library].returncode, out, err, outputs[library], live)
        finally:
            for process in started.values():
                process.kill()
                process.wait()
    return checks


def _environment(processes: int) -> dict[str, str]:
    """Without network, GPU and tokens, and with the cores shared."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    threads = str(max(1, (os.cpu_count() or 1) // max(1, processes)))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {"OMP_NUM_THREADS": threads} | kept | offline


def _judge(code: int, out: str, err: str, output: Path, live: _Live) -> dict[str, Any]:
    if code:
        last = (err.strip().splitlines() or [f"exit code {code}"])[-1]
        return {"passed": False, "reason": last[:300]}
    said = json.loads(out.splitlines()[-1])
    entry = {key: said[key] for key in ("version", "weights_sha256") if key in said}
    with np.load(output) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    if said["known"]:
        return entry | {"passed": False, "reason": f"the process imported {', '.join(said['known'])}: it was not clean"}
    if said["classes"] != live.classes:
        return entry | {"passed": False, "reason": "its class names are not those of config.json"}
    if live.boxes is not None and not _near(found.get("boxes"), live.boxes):
        return entry | {"passed": False, "reason": "its boxes lie elsewhere"}
    return entry | _compare(found, live.logits)


def _near(found: Any, live: Any) -> bool:
    """Whether two arrays of boxes are equal within `TOLERANCE` of the largest side."""
    if found is None or found.shape != live.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - live).max(initial=0.0) <= TOLERANCE * max(1.0, float(np.abs(live).max(initial=0.0))))


def _compare(found: Mapping[str, Any], live: Any) -> dict[str, Any]:
    """Logits of the same pixels, and labels after a library's own preprocessing."""
    own = found["own"]
    if found["logits"].shape != live.shape or own.shape != live.shape:
        return {"passed": False, "reason": f"expected logits of shape {live.shape}, got {found['logits'].shape}"}
    if not all(np.isfinite(array).all() for array in (live, own, found["logits"])):
        return {"passed": False, "reason": "NaN or infinite logits"}
    scale = float(np.abs(live).max()) or 1.0
    difference = float(np.abs(found["logits"] - live).max()) / scale
    if live.shape[1] == 1:  # a number
        equal = int((np.abs(own - live) <= 2 * TOLERANCE * scale).sum())
        passed = difference <= TOLERANCE and equal == len(live)
        return {"passed": passed, "largest_difference": difference, "labels_equal": equal, "answers": "numbers"}
    at_label = np.take_along_axis(live, own.argmax(1)[:, None], axis=1)[:, 0]
    near = at_label >= live.max(1) - 2 * TOLERANCE * scale  # of masks each pixel's
    equal = int(near.reshape(len(live), -1).all(axis=1).sum())
    passed = difference <= TOLERANCE and equal == len(live)
    return {"passed": passed, "largest_difference": difference, "labels_equal": equal}
