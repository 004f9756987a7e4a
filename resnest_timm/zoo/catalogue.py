"""One row per released ResNeSt checkpoint: pretrained configs, the listing and docs/reference/zoo.md are made of them.

Sources, each with what it says of itself:

- the authors' PyTorch release, https://github.com/zhanghang1989/ResNeSt (hashes: `resnest/torch/models`);
- timm's conversions on the Hugging Face Hub (accuracy: `results-imagenet.csv` of timm);
- the authors' Gluon release (hashes: `resnest/gluon/model_store.py`), and gluon-cv's for the two smallest
  (https://github.com/dmlc/gluon-cv, `model_store.py`).

Code and weights are Apache-2.0 in all of them; ImageNet's own terms apply to what was trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

RELEASES = "https://github.com/zhanghang1989/ResNeSt/releases/download"
GLUON_CV = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models"

Protocol = Literal["paper", "timm", "gluon"]


@dataclass(frozen=True)
class Checkpoint:
    """A released set of weights.

    Attributes:
        architecture: The name under which `resnest_timm` registers the model; timm's where timm has it.
        tag: timm's name for the weights.
        authors_name: The name under which they were released.
        hub_id: Repository on the Hugging Face Hub that holds them as safetensors, if that is the source.
        url: Address of the file, if that is the source.
        sha256: First digits of the file's SHA-256, where the source states them.
        sha1: SHA-1 of the `.params` file inside a Gluon zip, where the source states it.
        code_license: SPDX name, of the code that the weights were released with.
        weights_license: SPDX name, of the weights.
        top1: Published ImageNet top-1 accuracy at `image_size`, in per cent.
        top5: The same for top-5, where the source gives it.
        v2_top1: Published top-1 accuracy on ImageNet-V2 (matched frequency), where the source gives it.
        protocol: Who measured it and how. `paper` and `gluon`: the authors' PyTorch and Gluon code, centre crop of side
            `short * size / (size + 32)`, bicubic resize. `timm`: timm's results, with `crop_pct` and `interpolation`.
        image_size: Side of the square input, in pixels.
        crop_pct: Side of the evaluation crop divided by the side of the resized image.
        interpolation: Of the evaluation resize.
    """

    architecture: str
    tag: str
    authors_name: str
    hub_id: str | None = None
    url: str | None = None
    sha256: str | None = None
    sha1: str | None = None
    code_license: str = "Apache-2.0"
    weights_license: str = "Apache-2.0"
    top1: float | None = None
    top5: float | None = None
    v2_top1: float | None = None
    protocol: Protocol = "paper"
    image_size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bicubic"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the model, the one it carries first."""
        return tuple(dict.fromkeys((self.architecture, self.authors_name)))

    @property
    def file(self) -> str | None:
        """Name of the file at `url`."""
        return self.url.rpartition("/")[2] if self.url else None

    @property
    def source(self) -> str:
        """The Hub's id, or the file's name."""
        return self.hub_id or self.file or ""

    @property
    def is_gluon(self) -> bool:
        """Whether the file is a zip of MXNet parameters, which timm cannot load but `convert` can."""
        return self.protocol == "gluon"


def _hub(
    architecture: str, authors_name: str, top1: float, top5: float, tag: str = "in1k", **kwargs: Any
) -> Checkpoint:
    hub_id = f"timm/{architecture}.{tag}"
    accuracy: dict[str, Any] = {"top1": top1, "top5": top5, "protocol": "timm"}
    return Checkpoint(architecture, tag, authors_name, hub_id=hub_id, **accuracy, **kwargs)


def _pth(name: str, sha256: str, top1: float, size: int = 224, architecture: str | None = None) -> Checkpoint:
    url = f"{RELEASES}/weights_step1/{name}-{sha256}.pth"
    form: dict[str, Any] = {"image_size": size, "crop_pct": round(size / (size + 32), 3)}
    return Checkpoint(architecture or name, "in1k", name, url=url, sha256=sha256, top1=top1, **form)


def _gluon(
    name: str,
    sha1: str,
    top1: float,
    size: int = 224,
    architecture: str | None = None,
    folder: str = f"{RELEASES}/weights_step2",
) -> Checkpoint:
    url = f"{folder}/{name}-{sha1[:8]}.zip"
    form: dict[str, Any] = {"protocol": "gluon", "image_size": size, "crop_pct": round(size / (size + 32), 3)}
    return Checkpoint(architecture or name, "gluon_in1k", name, url=url, sha1=sha1, top1=top1, **form)


_4S2X40D, _1S4X24D = "resnest50d_4s2x40d", "resnest50d_1s4x24d"

CHECKPOINTS = (
    _hub("resnest14d", "resnest14", 75.516, 92.512, "gluon_in1k", interpolation="bilinear"),
    _hub("resnest26d", "resnest26", 78.476, 94.300, "gluon_in1k", interpolation="bilinear"),
    _hub("resnest50d", "resnest50", 80.958, 95.372, v2_top1=70.26, interpolation="bilinear"),
    _hub("resnest101e", "resnest101", 82.916, 96.310, v2_top1=72.33, image_size=256, interpolation="bilinear"),
    _hub("resnest200e", "resnest200", 83.880, 96.880, v2_top1=74.25, image_size=320, crop_pct=0.909),
    _hub("resnest269e", "resnest269", 84.542, 96.988, v2_top1=73.94, image_size=416, crop_pct=0.928),
    _hub(_4S2X40D, "resnest50_fast_4s2x40d", 81.146, 95.566),
    _hub(_1S4X24D, "resnest50_fast_1s4x24d", 81.024, 95.338),
    _pth("resnest50", "528c19ca", 81.03, architecture="resnest50d"),
    _pth("resnest101", "22405ba7", 82.83, 256, "resnest101e"),
    _pth("resnest200", "75117900", 83.84, 320, "resnest200e"),
    _pth("resnest269", "0cc87c48", 84.54, 416, "resnest269e"),
    _pth("resnest50_fast_1s1x64d", "d8fbf808", 80.33),
    _pth("resnest50_fast_2s1x64d", "44938639", 80.53),
    _pth("resnest50_fast_4s1x64d", "f74f3fc3", 80.76),
    _pth("resnest50_fast_1s2x40d", "32830b84", 80.59),
    _pth("resnest50_fast_2s2x40d", "9d126481", 80.61),
    _pth("resnest50_fast_4s2x40d", "41d14ed0", 81.14, architecture=_4S2X40D),
    _pth("resnest50_fast_1s4x24d", "d4a4f76f", 80.99, architecture=_1S4X24D),
    _gluon("resnest14", "7e0b0cae2fd7e9084d1e498b858af1429a6eb1cb", 75.75, 224, "resnest14d", GLUON_CV),
    _gluon("resnest26", "364590740605b6a2b95f5bb77436d781a817436f", 78.68, 224, "resnest26d", GLUON_CV),
    _gluon("resnest50", "bcfefe1dd1dd1ef5cfed5563123c1490ea37b42e", 81.04, 224, "resnest50d"),
    _gluon("resnest101", "5da943b3230f071525a98639945a6b3b3a45ac95", 82.81, 256, "resnest101e"),
    _gluon("resnest200", "0c5d117df664ace220aa6fc2922c094bb079d381", 83.88, 320, "resnest200e"),
    _gluon("resnest269", "11ae7f5da2bcdbad05ba7e84f9b74383e717f3e3", 84.53, 416, "resnest269e"),
    _gluon("resnest50_fast_1s1x64d", "5e16dbe56f1fba8e1bc2faddd91f874bfbd74193", 80.35),
    _gluon("resnest50_fast_2s1x64d", "85eb779a5e313d74b5e5390dae02aa8082a0f469", 80.65),
    _gluon("resnest50_fast_4s1x64d", "3f215532c6d8e07a10df116309993d4479fc3e4b", 80.90),
    _gluon("resnest50_fast_1s2x40d", "af3514c2ec757a3a9666a75b82f142ed47d55bee", 80.72),
    _gluon("resnest50_fast_2s2x40d", "2db13245aa4967cf5e8617cb4911880dd41628a4", 80.84),
    _gluon("resnest50_fast_4s2x40d", "b24d515797832e02da4da9c8a15effd5e44cfb56", 81.17, 224, _4S2X40D),
    _gluon("resnest50_fast_1s4x24d", "7318153ddb5e542a20cc6c58192f3c6209cff9ed", 80.97, 224, _1S4X24D),
)


def default_checkpoint(architecture: str) -> Checkpoint | None:
    """What `pretrained=True` loads: the Hub's weights where there are some, else the authors' `.pth`."""
    rows = [row for row in CHECKPOINTS if row.architecture == architecture and not row.is_gluon]
    return next((row for row in rows if row.hub_id), rows[0] if rows else None)


def published_by(source: str) -> Checkpoint | None:
    """The row of a released file, by its repository on the Hub or its address."""
    return next((row for row in CHECKPOINTS if source and source in (row.hub_id, row.url)), None)


def pretrained_config(checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """What timm's `PretrainedCfg` takes: where the weights are and how their input was prepared.

    Args:
        checkpoint: A released checkpoint; without one, the config of a variant that has no weights.
    """
    checkpoint = checkpoint or Checkpoint("", "", "")
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
        "license": checkpoint.weights_license.lower(),
        "origin_url": "https://github.com/zhanghang1989/ResNeSt",
        "paper_ids": "arXiv:2004.08955",
    }
