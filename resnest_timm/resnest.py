"""Every released ResNeSt, registered with timm under timm's name and under the authors' name.

timm's `ResNet` is the trunk; the block and the split attention are ours. One variant, one line.

Source: Zhang et al., "ResNeSt: Split-Attention Networks", https://arxiv.org/abs/2004.08955.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import ResNet

from resnest_timm.block import ResNeStBottleneck, refuse_aa_layer
from resnest_timm.zoo.catalogue import default_checkpoint, pretrained_config
from resnest_timm.zoo.weights import verified_overlay

Entrypoint = Callable[..., ResNet]

# timm's registry appends the models to `__all__` and looks for `default_cfgs` in the module of each of them.
__all__ = ["VARIANTS"]
default_cfgs: dict[str, Any] = {}

VARIANTS: dict[str, dict[str, Any]] = {}
"""Arguments of timm's `ResNet` for each of the 15 variants, by the name that its models carry."""

ALIASES: dict[str, str] = {}
"""Authors' name -> the name that the model carries, where timm has one of its own."""


def _build(architecture: str, pretrained: bool, **kwargs: Any) -> ResNet:
    refuse_aa_layer(kwargs.get("aa_layer"))
    if pretrained:
        source = (kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"), kwargs.get("cache_dir"))
        kwargs["pretrained_cfg_overlay"] = verified_overlay(architecture, *source)
    return build_model_with_cfg(ResNet, architecture, pretrained, **{**VARIANTS[architecture], **kwargs})


def _register(name: str, architecture: str) -> Entrypoint:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> ResNet:
        return _build(architecture, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    same = f"The same model as `{architecture}`. " if name != architecture else ""
    entrypoint.__doc__ = (
        f"{name}. {same}`kwargs` are those of timm's `ResNet`, and its builder's (`features_only`, ...)."
    )
    checkpoint = default_checkpoint(architecture)
    key = f"{name}.{checkpoint.tag}" if checkpoint else name
    default_cfgs.update(generate_default_cfgs({key: pretrained_config(checkpoint)}))
    with warnings.catch_warnings():
        # Taking timm's eight names over is what this package is for; the README says so.
        warnings.filterwarnings("ignore", message="Overwriting", category=UserWarning)
        register_model(entrypoint)
    return entrypoint


def _variant(
    name: str,
    layers: tuple[int, int, int, int],
    stem_width: int = 32,
    radix: int = 2,
    cardinality: int = 1,
    base_width: int = 64,
    avd_first: bool = False,
) -> Entrypoint:
    VARIANTS[name] = {
        "block": ResNeStBottleneck,
        "layers": list(layers),
        "stem_type": "deep",
        "stem_width": stem_width,
        "avg_down": True,
        "base_width": base_width,
        "cardinality": cardinality,
        "block_args": {"radix": radix, "avd": True, "avd_first": avd_first},
    }
    return _register(name, name)


def _alias(name: str, architecture: str) -> Entrypoint:
    ALIASES[name] = architecture
    return _register(name, architecture)


resnest14d = _variant("resnest14d", (1, 1, 1, 1))
resnest26d = _variant("resnest26d", (2, 2, 2, 2))
resnest50d = _variant("resnest50d", (3, 4, 6, 3))
resnest101e = _variant("resnest101e", (3, 4, 23, 3), stem_width=64)
resnest200e = _variant("resnest200e", (3, 24, 36, 3), stem_width=64)
resnest269e = _variant("resnest269e", (3, 30, 48, 8), stem_width=64)
resnest152 = _variant("resnest152", (3, 8, 36, 3), stem_width=64)

_FAST: dict[str, Any] = {"layers": (3, 4, 6, 3), "avd_first": True}
resnest50_fast_1s1x64d = _variant("resnest50_fast_1s1x64d", radix=1, **_FAST)
resnest50_fast_2s1x64d = _variant("resnest50_fast_2s1x64d", radix=2, **_FAST)
resnest50_fast_4s1x64d = _variant("resnest50_fast_4s1x64d", radix=4, **_FAST)
resnest50_fast_1s2x40d = _variant("resnest50_fast_1s2x40d", radix=1, cardinality=2, base_width=40, **_FAST)
resnest50_fast_2s2x40d = _variant("resnest50_fast_2s2x40d", radix=2, cardinality=2, base_width=40, **_FAST)
resnest50d_4s2x40d = _variant("resnest50d_4s2x40d", radix=4, cardinality=2, base_width=40, **_FAST)
resnest50d_1s4x24d = _variant("resnest50d_1s4x24d", radix=1, cardinality=4, base_width=24, **_FAST)
resnest101_fast = _variant("resnest101_fast", (3, 4, 23, 3), stem_width=64, avd_first=True)

resnest14 = _alias("resnest14", "resnest14d")
resnest26 = _alias("resnest26", "resnest26d")
resnest50 = _alias("resnest50", "resnest50d")
resnest101 = _alias("resnest101", "resnest101e")
resnest200 = _alias("resnest200", "resnest200e")
resnest269 = _alias("resnest269", "resnest269e")
resnest50_fast_4s2x40d = _alias("resnest50_fast_4s2x40d", "resnest50d_4s2x40d")
resnest50_fast_1s4x24d = _alias("resnest50_fast_1s4x24d", "resnest50d_1s4x24d")
