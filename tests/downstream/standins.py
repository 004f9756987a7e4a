"""The interfaces of Detectron2 and MMDetection that docs/how-to/downstream.md relies on, for want of the libraries.

Written from what their sources say (facebookresearch/detectron2: `modeling/backbone`, `layers/shape_spec.py`;
open-mmlab/mmengine: `registry`, `model/base_module.py`): the same names, signatures and checks, and of what they do as
much as a backbone meets.
"""

from __future__ import annotations

import itertools
import math
import types
from abc import ABC, abstractmethod
from collections import OrderedDict, namedtuple

import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork


class Registry:
    """detectron2's: `register()` decorates, an existing name is refused."""

    def __init__(self):
        self.entries = {}

    def register(self):
        def decorate(entry):
            assert entry.__name__ not in self.entries
            self.entries[entry.__name__] = entry
            return entry

        return decorate

    def get(self, name):
        return self.entries[name]


class ShapeSpec(namedtuple("ShapeSpec", ["channels", "height", "width", "stride"])):
    """detectron2's: keywords alone."""

    def __new__(cls, *, channels=None, height=None, width=None, stride=None):
        return super().__new__(cls, channels, height, width, stride)


class Backbone(nn.Module, ABC):
    """detectron2's: `forward` is abstract, the rest has defaults."""

    @abstractmethod
    def forward(self):
        """Feature maps by name."""

    @property
    def size_divisibility(self):
        return 0

    @property
    def padding_constraints(self):
        return {}


class LastLevelMaxPool(nn.Module):
    """detectron2's: p6 from p5."""

    num_levels, in_feature = 1, "p5"

    def forward(self, x):
        return [F.max_pool2d(x, 1, 2)]


class FPN(Backbone):
    """detectron2's signature, checks and names of levels, around torchvision's pyramid."""

    def __init__(self, bottom_up, in_features, out_channels, norm="", top_block=None, fuse_type="sum"):
        super().__init__()
        assert isinstance(bottom_up, Backbone)
        assert norm in ("", "SyncBN")
        assert fuse_type in ("sum", "avg")
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        assert all(coarse == 2 * fine for fine, coarse in itertools.pairwise(strides))
        self.pyramid = FeaturePyramidNetwork([shapes[name].channels for name in in_features], out_channels)
        self.bottom_up, self.in_features, self.top_block = bottom_up, in_features, top_block
        self.strides = {f"p{int(math.log2(stride))}": stride for stride in strides}
        self.channels = out_channels

    @property
    def size_divisibility(self):
        return max(self.strides.values())

    def forward(self, x):
        features = self.bottom_up(x)
        levels = self.pyramid(OrderedDict((name, features[name]) for name in self.in_features))
        found = dict(zip(self.strides, levels.values(), strict=True))
        if self.top_block is not None:
            found["p6"] = self.top_block(found[self.top_block.in_feature])[0]
        return found

    def output_shape(self):
        return {name: ShapeSpec(channels=self.channels, stride=stride) for name, stride in self.strides.items()}


class ModuleRegistry:
    """mmengine's: `register_module()` decorates, `build` makes from a dict with `type`; mmdet's has a ResNeSt."""

    def __init__(self):
        self.entries = {"ResNeSt": None}

    def register_module(self, name=None, force=False):
        def decorate(entry):
            key = name or entry.__name__
            if not force and key in self.entries:
                raise KeyError(f"{key} is already registered")
            self.entries[key] = entry
            return entry

        return decorate

    def build(self, cfg):
        arguments = dict(cfg)
        return self.entries[arguments.pop("type")](**arguments)


class BaseModule(nn.Module, ABC):
    """mmengine's: `init_weights` goes on to the children that have one."""

    def __init__(self, init_cfg=None):
        super().__init__()
        self.init_cfg = init_cfg

    def init_weights(self):
        for child in self.children():
            if hasattr(child, "init_weights"):
                child.init_weights()


def detectron2():
    """Modules by name, new ones at each call."""
    modeling = {"BACKBONE_REGISTRY": Registry(), "FPN": FPN, "Backbone": Backbone, "ShapeSpec": ShapeSpec}
    fpn = {"FPN": FPN, "LastLevelMaxPool": LastLevelMaxPool}
    return {
        "detectron2": _module("detectron2"),
        "detectron2.modeling": _module("detectron2.modeling", **modeling),
        "detectron2.modeling.backbone": _module("detectron2.modeling.backbone", Backbone=Backbone, FPN=FPN),
        "detectron2.modeling.backbone.fpn": _module("detectron2.modeling.backbone.fpn", **fpn),
    }


def mmdetection():
    """Modules by name, new ones at each call."""
    return {
        "mmdet": _module("mmdet"),
        "mmdet.registry": _module("mmdet.registry", MODELS=ModuleRegistry()),
        "mmengine": _module("mmengine"),
        "mmengine.model": _module("mmengine.model", BaseModule=BaseModule),
    }


def _module(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module
