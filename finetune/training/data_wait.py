"""How long a training waits for its images, and what would shorten it."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler
from PIL import Image

NOTEWORTHY = 0.15
"""Share of the training time from which on something is suggested."""

IMAGES = 16
"""Whose size is looked at."""


class DataWait(PassThroughProfiler):
    """Times how long the training loop waits for its next batch; Lightning calls it before and after.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        """Starts the clock before a batch is taken from the loader."""
        if action_name.endswith(".train_dataloader_next"):
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stops the clock."""
        if action_name.endswith(".train_dataloader_next"):
            self.seconds += time.perf_counter() - self._since


def short_side(values: Sequence[Any]) -> float:
    """Median of the shorter sides of a few images in pixels, from their headers.

    Args:
        values: The images, encoded.
    """
    sides = []
    for value in values:
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"]) as image:
            sides.append(min(image.size))
    return median(sides)


def suggestion(share: float, workers: int, cores: int, side: float, image_size: int, policy: bool) -> str | None:
    """One line that names what to change, or None where the training waits little.

    Args:
        share: Of the training time that was spent waiting, 0 to 1.
        workers: Decoding processes per device.
        cores: At hand for each device.
        side: Typical shorter side of an image as it is stored, in pixels.
        image_size: Side of the model's input in pixels.
        policy: Whether a policy of random colours and shapes is on.
    """
    if share <= NOTEWORTHY:
        return None
    text = f"{share:.0%} of the training time was spent waiting for images"
    if workers < cores:
        kind = "process" if workers == 1 else "processes"
        more = min(cores, max(2, 2 * workers))
        return f"{text}, with {workers} decoding {kind} on {cores} cores per device: try --workers {more}"
    if side >= 4 * image_size:
        return (
            f"{text}, all {cores} cores in use; images are {side:.0f} px on their shorter side, the model sees "
            f"{image_size} px: store them at about {2 * image_size} px"
        )
    if policy:
        return f"{text}, all {cores} cores in use: try it without --auto-augment, which takes much of a core's time"
    return f"{text}, all {cores} cores in use: take a machine with more cores per device"
