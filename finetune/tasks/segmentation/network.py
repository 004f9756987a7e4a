"""A backbone of timm and a decoder of segmentation_models_pytorch (smp), as one network.

Source of the decoders: https://github.com/qubvel-org/segmentation_models.pytorch (MIT).
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import ConfigError, ModelError
from finetune.export.model_folder import stock_architecture
from finetune.networks import models
from finetune.tasks.segmentation import auxiliary as auxiliary_heads
from finetune.tasks.segmentation.inputs import MULTIPLE as MULTIPLE
from resnest_timm.resnest import ALIASES, VARIANTS

DECODERS = {
    "fpn": "FPN",
    "unet": "Unet",
    "upernet": "UPerNet",
    "segformer": "Segformer",
    "deeplabv3plus": "DeepLabV3Plus",
    "deeplabv3": "DeepLabV3",
}
"""By the names that `--decoder` takes: classes of smp."""
DILATED = ("deeplabv3plus", "deeplabv3")
"""Decoders at a backbone's output stride 16 or 8; the others take its five scales as they are."""
_NOT_THE_BACKBONE = (
    "in_chans",
    "num_classes",
    "drop_rate",
    "drop_path_rate",
    "global_pool",
    "output_stride",
    "features_only",
)
"""Of timm's arguments: the encoder's class gives them itself, or they say how to train."""
_DROPOUT = ("decoder_dropout", "decoder_aspp_dropout")


def library() -> Any:
    """The module of smp.

    Raises:
        ConfigError: It is not installed; names the extra.
    """
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise ConfigError("segmentation_models_pytorch: not installed; pip install 'resnest-timm[segmentation]'")
    import segmentation_models_pytorch

    return segmentation_models_pytorch


class SegmentationNetwork(nn.Module):
    """Float32 `[B, 3, H, W]`, both sides multiples of 32 -> logits `[B, K, H, W]`.

    Args:
        network: Of smp.
        arguments: What its class was given, and its name as `_model_class`: smp's config.json.
        pretrained_cfg: timm's, of the backbone.
        tile: Side of the windows in which larger images are looked at; whole images when not given.
        auxiliary: Train a second head as well, see `finetune.tasks.segmentation.auxiliary`.

    Attributes:
        pretrained_cfg: As timm's models have it: `architecture`, `mean`, `std`, ...
        size_multiple: What sides of the input are multiples of.
        classes: Names, in the order of the outputs; empty until it is known what it was trained on.
        temperature: What logits are divided by for probabilities; None where none was fitted.
    """

    size_multiple = MULTIPLE

    def __init__(
        self,
        network: nn.Module,
        arguments: Mapping[str, Any],
        pretrained_cfg: Mapping[str, Any],
        tile: int | None = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.arguments, self.tile = network, dict(arguments), tile
        self.pretrained_cfg = dict(pretrained_cfg)
        self.classes: tuple[str, ...] = ()
        self.temperature: float | None = None
        self.auxiliary = auxiliary_heads.of(network, self.outputs) if auxiliary else None

    def forward(self, pixels: Tensor, auxiliary: bool = False) -> Any:
        """Logits of the whole of each image; if asked, a pair of them and of the auxiliary head's, shaped alike."""
        if not auxiliary or self.auxiliary is None:
            return self.network(pixels)
        parts: Any = self.network
        maps = parts.encoder(pixels)
        logits: Tensor = parts.segmentation_head(parts.decoder(maps))
        return logits, self.auxiliary(maps[-2], (pixels.shape[-2], pixels.shape[-1]))

    def whole(self, pixels: Tensor) -> Tensor:
        """Logits `[K, H, W]` of one image `[3, H, W]`: at once, or the mean of those of overlapping windows."""
        height, width = pixels.shape[-2:]
        if self.tile is None or (height <= self.tile and width <= self.tile):
            found: Tensor = self._one(pixels)
            return found
        total = pixels.new_zeros(self.outputs, height, width)
        count = pixels.new_zeros(height, width)
        for top, bottom in windows(height, self.tile):
            for left, right in windows(width, self.tile):
                total[:, top:bottom, left:right] += self._one(pixels[:, top:bottom, left:right])
                count[top:bottom, left:right] += 1
        return total / count

    def _one(self, pixels: Tensor) -> Tensor:
        found: Tensor = self(pixels[None].contiguous(memory_format=torch.channels_last))[0].float()
        return found

    @property
    def outputs(self) -> int:
        """K."""
        return int(self.arguments["classes"])

    @property
    def needs(self) -> str | None:
        """What must be imported so that smp's own `from_pretrained` builds the same network; None: nothing."""
        name = str(self.arguments["encoder_name"]).removeprefix("tu-")
        return "resnest_timm" if name in (*ALIASES, *VARIANTS) and self.stride != MULTIPLE else None

    @property
    def stride(self) -> int:
        """Of the backbone's last map."""
        return int(self.arguments.get("encoder_output_stride", MULTIPLE))

    def get_backbone(self) -> nn.Module:
        """The part that starts from pretrained weights."""
        encoder: Any = self.network.encoder
        assert isinstance(encoder, nn.Module)
        return encoder

    def get_classifier(self) -> nn.Module:
        """The part that starts new, as timm's models name theirs."""
        parts: Any = self.network
        new = {"decoder": parts.decoder, "head": parts.segmentation_head}
        return nn.ModuleDict(new if self.auxiliary is None else new | {"auxiliary": self.auxiliary})

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Of the backbone, where most of the memory is."""
        backbone: Any = self.network.encoder
        backbone.model.set_grad_checkpointing(enable)


def windows(length: int, side: int) -> list[tuple[int, int]]:
    """Starts and ends of windows of `side` that cover `length`, neighbours sharing half or more; multiples of 32."""
    if length <= side:
        return [(0, length)]
    step = max(MULTIPLE, side // 2 // MULTIPLE * MULTIPLE)
    return [(start, start + side) for start in (*range(0, length - side, step), length - side)]


def build(
    name: str,
    classes: int,
    pretrained: bool = True,
    decoder: str = "fpn",
    output_stride: int = MULTIPLE,
    image_size: int = 256,
    zero_init_last: bool = True,
    drop_path: float | None = None,
    dropout: float | None = None,
    tile: int | None = None,
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """A network whose backbone has a model's weights, and whose decoder starts new.

    Args:
        name: As `finetune.networks.models.build` takes it.
        classes: K.
        pretrained: Load the model's weights.
        decoder: See `DECODERS`.
        output_stride: Of the backbone: 32; for `DILATED` 16 or 8.
        image_size: Short side of the images.
        zero_init_last: See `models.build`.
        drop_path: Rate of stochastic depth in the backbone; the model's own when not given.
        dropout: Rate in the decoder; smp's own when not given.
        tile: See `SegmentationNetwork`.
        auxiliary: See `SegmentationNetwork`.

    Raises:
        ConfigError: smp is not installed.
        ModelError: The model cannot be built, or is no backbone for such a decoder.
        ExportError: No other program could build the network.
    """
    smp = library()
    whole = models.build(name, None, pretrained, zero_init_last=zero_init_last)
    arguments = _arguments(whole, classes, decoder, output_stride)
    kind = getattr(smp, arguments["_model_class"])
    extra: dict[str, Any] = {} if drop_path is None else {"drop_path_rate": drop_path}
    extra |= {key: dropout for key in _DROPOUT if dropout is not None and key in inspect.signature(kind).parameters}
    given = {key: value for key, value in arguments.items() if not key.startswith("_")}
    try:
        network = kind(**given | extra)
    except (RuntimeError, LookupError, AttributeError, AssertionError, TypeError, ValueError) as error:
        raise ModelError(_unfit(name, decoder, error)) from error
    _fill(network.encoder, whole, name)
    cfg: Any = whole.pretrained_cfg
    made = SegmentationNetwork(network, arguments, cfg, tile, auxiliary)
    _try(made, name, decoder, image_size)
    return made


def _arguments(whole: nn.Module, classes: int, decoder: str, output_stride: int) -> dict[str, Any]:
    """What smp's class is given: an encoder that stock timm builds alike, or else one that it does not know at all."""
    cfg: Any = whole.pretrained_cfg
    architecture = str(cfg["architecture"])
    if output_stride == MULTIPLE or architecture not in VARIANTS:
        encoder, options = stock_architecture(whole)
        options = {key: value for key, value in options.items() if key not in _NOT_THE_BACKBONE}
    else:
        # Stock timm's dilated ResNeSt is another network under the same name: no silent mistake may come of that.
        stock_architecture(whole)
        encoder, options = next((alias for alias, of in ALIASES.items() if of == architecture), architecture), {}
    stride = {"encoder_output_stride": output_stride} if decoder in DILATED else {}
    return {
        "_model_class": DECODERS[decoder],
        "encoder_name": f"tu-{encoder}",
        "encoder_weights": None,
        "in_channels": 3,
        "classes": classes,
        **stride,
        **options,
    }


def _fill(encoder: nn.Module, whole: nn.Module, name: str) -> None:
    """Give an encoder all weights of a model but its head's.

    Raises:
        ModelError: One of the encoder's has no counterpart of its shape.
    """
    theirs, filled = whole.state_dict(), {}
    # timm's FeatureListNet flattens what stands first: `stages.0.x` -> `stages_0.x`.
    renamed = {f"model.{key.replace('.', '_', 1)}": value for key, value in theirs.items()}
    renamed |= {f"model.model.{key}": value for key, value in theirs.items()}
    renamed |= {f"model.{key}": value for key, value in theirs.items()}
    own = encoder.state_dict()
    for key, value in own.items():
        if key not in renamed or renamed[key].shape != value.shape:
            raise ModelError(
                f"{name}: its weights do not fit its own backbone ({key} has no counterpart): take another model"
            )
        filled[key] = renamed[key]
    nn.Module.load_state_dict(encoder, filled, strict=True)  # smp's own renames keys


def _try(made: SegmentationNetwork, name: str, decoder: str, image_size: int) -> None:
    """Whether images of any shape go through.

    Raises:
        ModelError: They do not.
    """
    side = -(-min(image_size, 64) // MULTIPLE) * MULTIPLE
    made.eval()
    try:
        with torch.inference_mode():
            found = made(torch.zeros(1, 3, side, side + MULTIPLE))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ModelError(_unfit(name, decoder, error)) from error
    finally:
        made.train()
    if found.shape != (1, made.outputs, side, side + MULTIPLE):
        raise ModelError(_unfit(name, decoder, f"logits {list(found.shape)} of an image {side} x {side + MULTIPLE}"))


def _unfit(name: str, decoder: str, reason: object) -> str:
    return (
        f"{name} is no backbone for --decoder {decoder}: {' '.join(str(reason).split())[:200]}; expected a model with "
        "maps of 1/4 to 1/32 of images of any shape, as ResNeSts and most convolutional networks have"
    )


def upscaled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits `[k, h, w]` at another height and width, bilinear, corners not aligned."""
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
