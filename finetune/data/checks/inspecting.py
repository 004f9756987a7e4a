"""Targets that are looked at one by one: what a task may bring for `doctor` and `train`; Protocols alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from finetune.data.checks.findings import Finding


class Inspection(Protocol):
    """What stands beside the images of a dataset, looked at one by one; a place counts over all roles' images."""

    def differ(self, first: int, second: int, mirrored: bool) -> bool:
        """Whether the targets of two whole copies contradict, one perhaps mirrored and of another size."""

    def named(self, place: int) -> str:
        """A target, for people."""

    def drawn(self, place: int, picture: Image) -> Image:
        """An upright RGB image, no larger than a thumbnail has to be, with its target drawn into it."""

    def findings(self) -> Iterator[Finding]:
        """What is odd in single targets."""


@runtime_checkable
class Inspecting(Protocol):
    """Of a task whose targets are more than what splits are drawn by: boxes, masks. For `doctor` and `train`."""

    def inspection(self, data: Any) -> Inspection:
        """Of a `finetune.data.dataset.LabelledImages`; nothing is read before it is asked for."""
