"""The models for `torch.hub`, under the names and arguments of the authors' repository.

torch.hub.load("PATH/TO/A/CLONE", "resnest50", source="local", pretrained=True)
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

import timm as _timm

import resnest_timm as _resnest_timm  # noqa: F401  (registers the models)

dependencies = ["torch", "timm"]


def _entry(name: str) -> _Callable[..., _Any]:
    def entrypoint(pretrained: bool = False, dilated: bool = False, dilation: int = 1, **kwargs: _Any) -> _Any:
        strides = {1: 32, 2: 16, 4: 8}
        if dilation not in strides:
            raise ValueError(f"dilation must be 1, 2 or 4, got {dilation}; 2 is output stride 16, and 4 is 8")
        kwargs.pop("root", None)  # the authors' argument of old; torch.hub's and the Hub's caches serve
        kwargs.setdefault("output_stride", 8 if dilated else strides[dilation])
        return _timm.create_model(name, pretrained=pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"""{name}, a timm model.

    Args:
        pretrained: Load the released ImageNet weights: from the Hugging Face Hub where timm hosts them, else from the
            authors' release, whose hash is checked.
        dilated: Output stride 8 instead of 32.
        dilation: 2 or 4: output stride 16 or 8.
        kwargs: Those of `timm.create_model`, for instance `num_classes` or `features_only`.
    """
    return entrypoint


resnest14 = _entry("resnest14")
resnest26 = _entry("resnest26")
resnest50 = _entry("resnest50")
resnest101 = _entry("resnest101")
resnest200 = _entry("resnest200")
resnest269 = _entry("resnest269")
resnest50_fast_1s1x64d = _entry("resnest50_fast_1s1x64d")
resnest50_fast_2s1x64d = _entry("resnest50_fast_2s1x64d")
resnest50_fast_4s1x64d = _entry("resnest50_fast_4s1x64d")
resnest50_fast_1s2x40d = _entry("resnest50_fast_1s2x40d")
resnest50_fast_2s2x40d = _entry("resnest50_fast_2s2x40d")
resnest50_fast_4s2x40d = _entry("resnest50_fast_4s2x40d")
resnest50_fast_1s4x24d = _entry("resnest50_fast_1s4x24d")
