"""One row per released ResNeSt checkpoint; the pretrained configs that timm sees are made from it.

Source of the weights: the authors' releases (https://github.com/zhanghang1989/ResNeSt, Apache-2.0) and, where they
exist, timm's conversions on the Hugging Face Hub (Apache-2.0). ImageNet's own terms apply to what was trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

RELEASES = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"


@dataclass(frozen=True)
class Checkpoint:
    """A released set of weights.

    Attributes:
        architecture: The name under which `resnest_timm` registers the model.
        tag: timm's name for the weights.
        hub_id: Repository on the Hugging Face Hub that holds them as safetensors, if there is one.
        file: Name in the authors' release, ending in the first 8 digits of its SHA-256, if there is one.
        image_size: Side of the square input, in pixels.
        crop_pct: Side of the evaluation crop divided by the side of the resized image.
        interpolation: Of the evaluation resize.
    """

    architecture: str
    tag: str
    hub_id: str | None = None
    file: str | None = None
    image_size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bilinear"

    @property
    def url(self) -> str | None:
        """Address of the authors' file."""
        return f"{RELEASES}/{self.file}" if self.file else None


def _hub(architecture: str, tag: str = "in1k", **kwargs: Any) -> Checkpoint:
    return Checkpoint(architecture, tag, hub_id=f"timm/{architecture}.{tag}", **kwargs)


def _release(architecture: str, sha256: str) -> Checkpoint:
    return Checkpoint(architecture, "in1k", file=f"{architecture}-{sha256}.pth", interpolation="bicubic")


CHECKPOINTS = (
    _hub("resnest14d", "gluon_in1k"),
    _hub("resnest26d", "gluon_in1k"),
    _hub("resnest50d"),
    _hub("resnest101e", image_size=256),
    _hub("resnest200e", image_size=320, crop_pct=0.909, interpolation="bicubic"),
    _hub("resnest269e", image_size=416, crop_pct=0.928, interpolation="bicubic"),
    _hub("resnest50d_4s2x40d", interpolation="bicubic"),
    _hub("resnest50d_1s4x24d", interpolation="bicubic"),
    _release("resnest50_fast_1s1x64d", "d8fbf808"),
    _release("resnest50_fast_2s1x64d", "44938639"),
    _release("resnest50_fast_4s1x64d", "f74f3fc3"),
    _release("resnest50_fast_1s2x40d", "32830b84"),
    _release("resnest50_fast_2s2x40d", "9d126481"),
)


def pretrained_config(checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """What timm's `PretrainedCfg` takes: where the weights are and how their input was prepared.

    Args:
        checkpoint: A released checkpoint; without one, the config of a variant that has no weights.
    """
    checkpoint = checkpoint or Checkpoint("", "", interpolation="bicubic")
    side = checkpoint.image_size
    return {
        "hf_hub_id": checkpoint.hub_id,
        "url": checkpoint.url,
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 32, side // 32),
        "crop_pct": checkpoint.crop_pct,
        "interpolation": checkpoint.interpolation,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1.0",
        "classifier": "fc",
        "license": "apache-2.0",
        "origin_url": "https://github.com/zhanghang1989/ResNeSt",
        "paper_ids": "arXiv:2004.08955",
    }
