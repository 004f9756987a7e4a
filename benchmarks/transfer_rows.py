"""The rows of transfer.py: whose run each is, and how it is started, timed and read."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import yaml
from transfer_data import Files
from transfer_features import outputs
from transfer_job import Job, read
from transfer_results import Request, Run

HERE = Path(__file__).resolve().parent
OFF = 0.01
"""Share of images that stock timm may see otherwise than ours (it resizes by Pillow); two images at least."""


@dataclass(frozen=True)
class Row:
    """A way of training.

    Attributes:
        name: In the table.
        peer: Whose script; ours without one.
        flags: Of `python -m finetune`, besides model, data, size and seed.
        seeds: `all`, or `first`, or `none` where nothing that counts is random.
        lr: Of a peer; its own default where it is None.
        batch_as_ours: A peer's batches are as large as ours, else its own default.
        with_validation: It trains on the validation images too.
    """

    name: str
    peer: str | None = None
    flags: str = ""
    seeds: Literal["all", "first", "none"] = "all"
    lr: float | None = None
    batch_as_ours: bool = False
    with_validation: bool = False


@dataclass(frozen=True)
class Place:
    """Where runs take place.

    Attributes:
        model: As timm takes it.
        image_size: Side of the square images in pixels.
        threads: Of each process.
        pythons: By peer, the interpreter; this one where it has none.
        settings: Of the whole benchmark, for the results.
    """

    model: str
    image_size: int
    threads: int
    pythons: dict[str, str]
    settings: dict[str, Any]

    def run(self, request: Request, row: Row, files: Files, score: Path) -> Run:
        """Train and score once."""
        with tempfile.TemporaryDirectory() as folder:
            if row.peer is None:
                return self._ours(request, files, Path(folder))
            return self._peer(request, row, files, score, Path(folder))

    def _ours(self, request: Request, files: Files, folder: Path) -> Run:
        command = [sys.executable, "-m", "finetune", "--model", self.model, "--dataset", str(files.folder)]
        command += [
            "--image-size",
            str(self.image_size),
            "--seed",
            str(request.seed or 0),
            "--output",
            str(folder / "run"),
        ]
        seconds = self._launch([*command, *shlex.split(request.flags)], folder)
        result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))
        metrics = result["metrics"]["test"]
        correct = self._exported(folder / "run" / "model", files.score, metrics["accuracy"])
        probe = result.get("evaluation", {}).get("probe") or {}
        facts = {"epochs": config["epochs"], "batch_size": config["batch_size"], "accuracy": metrics["accuracy"]}
        facts |= {"best_epoch": result["training"].get("best_epoch"), "probe": probe.get("accuracy")}
        return Run(request, self.settings, correct, seconds, metrics["loss"], facts)

    def _exported(self, model: Path, score: Path, accuracy: float) -> str:
        """Which images the exported model gets right in stock timm.

        Raises:
            RuntimeError: That is not what result.json says.
        """
        images = read(str(score))
        found = outputs(timm.create_model(f"local-dir:{model}", pretrained=True), images, self.image_size)
        right = found.argmax(axis=1) == np.array(images["label"])
        if abs(right.mean() - accuracy) > max(OFF, 2.5 / len(right)):
            raise RuntimeError(
                f"expected the accuracy of result.json, {accuracy:.4f}, of the exported model in stock timm; got "
                f"{right.mean():.4f}"
            )
        return "".join("01"[int(value)] for value in right)

    def _peer(self, request: Request, row: Row, files: Files, score: Path, folder: Path) -> Run:
        job = Job(
            model=self.model,
            image_size=self.image_size,
            train=str(files.folder / "train.parquet"),
            validation=str(files.folder / "validation.parquet"),
            score=str(score),
            answer=str(folder / "answer.json"),
            seed=request.seed or 0,
            epochs=request.epochs or 0,
            batch_size=request.batch_size,
            lr=request.lr,
            with_validation=row.with_validation,
        )
        script = HERE / f"transfer_{row.peer}.py"
        python = self.pythons.get(str(row.peer), sys.executable)
        seconds = self._launch([python, str(script), *job.to_words()], folder)
        said = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return Run(request, self.settings, said.pop("correct"), seconds, said.pop("loss"), said)

    def _launch(self, command: list[str], folder: Path) -> float:
        """Seconds of a whole process, in a folder of its own and with caches of its own for the data.

        Raises:
            RuntimeError: It failed; the message has the end of what it said.
        """
        own = {"OMP_NUM_THREADS": str(self.threads), "OPENBLAS_NUM_THREADS": str(self.threads)}
        own |= {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
        own |= {"HF_DATASETS_CACHE": str(folder / "cache")}
        start = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **own}
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return time.perf_counter() - start
