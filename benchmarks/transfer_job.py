"""What transfer.py asks of a peer, which is a process of its own, and what the peer answers; knows nothing of ours."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np


@dataclass(frozen=True)
class Job:
    """One training of a peer.

    Attributes:
        model: timm name, `local-dir:PATH` or `hf-hub:OWNER/NAME`.
        image_size: Side of the square images in pixels.
        train: Parquet file with columns `image` and `label`.
        validation: The same.
        score: The same; what is predicted in the end.
        answer: JSON file to write.
        seed: Of everything random.
        epochs: Passes over the training images.
        batch_size: Images of a step; the peer's own default where it is None.
        lr: Learning rate; the peer's own default where it is None.
        with_validation: Train on the validation images too, for a peer that chooses nothing on them.
    """

    model: str
    image_size: int
    train: str
    validation: str
    score: str
    answer: str
    seed: int = 0
    epochs: int = 1
    batch_size: int | None = None
    lr: float | None = None
    with_validation: bool = False

    def to_words(self) -> list[str]:
        """The arguments of the peer's process."""
        return [json.dumps(asdict(self))]

    @classmethod
    def from_command_line(cls) -> Job:
        """In the peer's process."""
        return cls(**json.loads(sys.argv[1]))


def read(path: str) -> datasets.Dataset:
    """A split; its images are decoded on access, upright."""
    with tempfile.TemporaryDirectory() as cache:
        return datasets.Dataset.from_parquet(path, cache_dir=cache, keep_in_memory=True)


def answer(job: Job, logits: np.ndarray, labels: list[int], **more: Any) -> None:
    """Write which images were right, and the mean loss.

    Args:
        job: What was asked.
        logits: Of the scored images in their order, float `[N, C]`; logarithms of probabilities do.
        labels: Their classes.
        more: What else is worth keeping.

    Raises:
        ValueError: There is not one prediction for each image.
    """
    if len(logits) != len(labels):
        raise ValueError(f"expected {len(labels)} images to be scored, got {len(logits)}")
    top = logits.max(axis=1, keepdims=True)
    log_probabilities = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    right = logits.argmax(axis=1) == np.asarray(labels)
    said = {
        "correct": "".join("01"[int(value)] for value in right),
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        **more,
    }
    Path(job.answer).write_text(json.dumps(said), encoding="utf-8")
