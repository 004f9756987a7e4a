"""What a detector is built from besides its weights: plain values, the same in config.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

ONE_STAGE = ("fcos", "retinanet")
WITH_MASKS = ("mask-rcnn", "cascade-mask-rcnn")
CASCADES = ("cascade-rcnn", "cascade-mask-rcnn")


@dataclass(frozen=True)
class Layout:
    """A detector without its weights; `config.json` holds these values by these names.

    Attributes:
        detector: Its kind, as `--detector` has it.
        architecture: timm's name of the backbone.
        model_args: timm's arguments of it.
        out_indices: Which of its maps the feature pyramid takes.
        num_classes: Without background.
        min_size: Shorter side of the images it looks at, in pixels, where the longer one allows it.
        max_size: Longest side.
        image_mean: By channel, of pixels from 0 to 1.
        image_std: Likewise.
        interpolation: How images come to that size.
        anchor_sizes: For each level of the pyramid, the square roots of its anchors' areas, in pixels of the image that
            it looks at.
        aspect_ratios: Of all anchors, height over width.
        score_thresh: What is found with less is dropped. Low: average precision needs the unsure ones, too.
        nms_thresh: Of two boxes of a class that overlap by more, the surer one stays.
        detections_per_img: At most.
    """

    detector: str
    architecture: str
    model_args: dict[str, Any]
    out_indices: tuple[int, ...]
    num_classes: int
    min_size: int
    max_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    interpolation: str
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]
    score_thresh: float = 0.01
    nms_thresh: float = 0.5
    detections_per_img: int = 100

    @property
    def masks(self) -> bool:
        """Whether it gives masks as well."""
        return self.detector in WITH_MASKS

    @property
    def one_stage(self) -> bool:
        """Whether there are no regions between anchors and boxes."""
        return self.detector in ONE_STAGE

    @property
    def background(self) -> int:
        """Index that torchvision's head has for the first class: two-stage heads keep 0 for the background."""
        return 0 if self.one_stage else 1

    def to_json(self) -> dict[str, Any]:
        """For config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Layout:
        """Of config.json, which may hold more; lists become tuples."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: _tuples(value) for name, value in content.items() if name in known})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
