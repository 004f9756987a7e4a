"""What the certificate is made from: real test images, and what the live model says of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

import cards
from cards.certificate.verify import lines
from finetune.console import log
from finetune.data import images
from finetune.data.dataset import LabelledImages
from finetune.loading.transforms import Transform
from finetune.runs.runfolder import save_tensors
from finetune.settings.limits import VERIFY

IMAGES = 32


def write_inputs(folder: Path, model: nn.Module, data: LabelledImages, transform: Transform) -> None:
    """Write test images as PNG, and the live model's float32 logits of them; the folder appears whole or not at all.

    Args:
        folder: RUN/verify, replaced if it exists: `images/000.png` ... (upright RGB, not resized), and
            `inputs.safetensors` with float32 `pixels` `[n, 3, H, W]` and `logits` `[n, C]`.
        model: As it was evaluated; is moved to the CPU.
        data: With the test split.
        transform: The evaluation's, PIL RGB -> float32 `[3, H, W]`.
    """
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    strata = data.schema.strata(data.splits.parts["test"].targets)
    pixels = []
    for number, value in enumerate(data.values("test", spread(strata, IMAGES).tolist())):
        picture = images.decode(value)
        picture.save(temporary / "images" / f"{number:03}.png")
        pixels.append(transform(picture))
    tensors = {"pixels": torch.stack(pixels), "logits": eager_logits(model, torch.stack(pixels))}
    save_tensors(tensors, temporary / "inputs.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def spread(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of up to `count` images over as many classes as possible: the first of each class, then the second, ...

    Args:
        labels: int64 `[N]`, class indices.
        count: How many to choose.

    Returns:
        int64 `[min(count, N)]`; where a round would be too many, evenly spaced classes of it.
    """
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])  # where each one's class begins
    turns = np.arange(len(labels)) - starts
    chosen: list[int] = []
    for turn in range(int(turns.max(initial=-1)) + 1):
        round_ = by_class[turns == turn]
        room = count - len(chosen)
        if len(round_) > room:
            round_ = round_[np.arange(room) * len(round_) // room] if room else round_[:0]
        chosen += round_.tolist()
    return np.array(chosen, dtype=np.int64)


def eager_logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Float32 logits `[n, C]` on the CPU, not compiled, of float32 pixels `[n, 3, H, W]`."""
    model = model.cpu().float().eval()
    with torch.inference_mode():
        return torch.cat([model.forward(batch) for batch in torch.split(pixels, 8)])


def certify(run: Path) -> None:
    """Make model/verify.json and say what came out; a failure is said, and loses nothing of the run."""
    if os.environ.get(VERIFY) == "0":
        log.info(f"not verified ({VERIFY}=0): `python -m cards verify {run}` makes the certificate")
        return
    log.info("verifying: other libraries load the model, each in a process of its own; some 20 seconds")
    try:
        made = cards.verify(run)
    except (cards.CardError, OSError) as error:
        log.info(f"warning: no certificate: {error}")
        return
    for line in lines(made):
        log.info(f"verified by {line}")
    if not made["passed"]:
        log.info("warning: the certificate failed: other programs do not get this model's outputs; do not publish it")
