"""Upstream checkpoints -> timm's keys. Pure functions of names and tensors; files are read and written elsewhere."""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import timm
import torch
from torch import Tensor

from resnest_timm.errors import ConversionError, UsageError
from resnest_timm.resnest import ALIASES, VARIANTS

Layout = Literal["timm", "gluon", "detectron2", "openmmlab"]
State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

LAYOUTS: dict[Layout, str] = {
    "timm": "timm's names, which are those of the authors' PyTorch code",
    "gluon": "names of the authors' Gluon code and of gluon-cv",
    "detectron2": "names of the authors' detectron2 backbone",
    "openmmlab": "names of mmpretrain, mmdetection and mmsegmentation",
}

_GLUON = {"gamma": "weight", "beta": "bias"}
_DETECTRON2 = (
    (r"^stem\.conv1_1\.norm\.", "conv1.1."),
    (r"^stem\.conv1_2\.norm\.", "conv1.4."),
    (r"^stem\.conv1_3\.norm\.", "bn1."),
    (r"^stem\.conv1_1\.", "conv1.0."),
    (r"^stem\.conv1_2\.", "conv1.3."),
    (r"^stem\.conv1_3\.", "conv1.6."),
    (r"^linear\.", "fc."),
    (r"\.conv([13])\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.2."),
    (r"\.shortcut\.", ".downsample.1."),
)
_OPENMMLAB = (
    (r"^stem\.([01])\.conv\.", lambda m: f"conv1.{3 * int(m[1])}."),  # mmpretrain: three ConvModules
    (r"^stem\.([01])\.bn\.", lambda m: f"conv1.{3 * int(m[1]) + 1}."),
    (r"^stem\.2\.conv\.", "conv1.6."),
    (r"^stem\.2\.bn\.", "bn1."),
    (r"^stem\.7\.", "bn1."),  # mmdetection and mmsegmentation: one flat sequence
    (r"^stem\.", "conv1."),
    (r"^head\.fc\.", "fc."),
)


@dataclass(frozen=True)
class Converted:
    """Weights under timm's names.

    Attributes:
        layout: Whose names the source had.
        state: Tensors by timm's names, complete for a model of `num_classes` classes.
        num_classes: Outputs of `fc`; 0 where the source is a backbone without one.
        left_out: Tensors of the source that are no part of the network, counted by their first name (`roi_heads`).
    """

    layout: Layout
    state: State
    num_classes: int
    left_out: dict[str, int]

    @property
    def is_detector(self) -> bool:
        """Whether they come from a detector, whose input is normalised in another way than a classifier's."""
        mmdetection = self.layout == "openmmlab" and "decode_head" not in self.left_out
        return not self.num_classes and (self.layout == "detectron2" or mmdetection)


def architecture_of(name: str) -> str:
    """The name that a model carries, from any of its names.

    Raises:
        UsageError: Unknown; the nearest known names are in the message.
    """
    architecture = ALIASES.get(name, name)
    if architecture not in VARIANTS:
        known = sorted({*VARIANTS, *ALIASES})
        near = difflib.get_close_matches(name, known, n=3) or known
        raise UsageError(f"unknown model {name!r}; expected a ResNeSt, for instance {', '.join(near)}")
    return architecture


def convert(tensors: Mapping[str, Tensor], architecture: str) -> Converted:
    """Rename, complete and check a checkpoint.

    Args:
        tensors: By the names of any of `LAYOUTS`.
        architecture: One of `VARIANTS`.

    Returns:
        The weights, unchanged in value and type. A norm's count of batches, which only PyTorch keeps, is 0 where the
        source has none.

    Raises:
        ConversionError: Names that are not understood, or tensors that are missing, left over or of another shape.
    """
    body, left_out = _network_of(tensors)
    layout = detect(body)
    state: State = {}
    for name, tensor in body.items():
        renamed = rename(name, layout)
        if renamed in state:
            raise ConversionError(f"two tensors of the checkpoint would become {renamed}; the second is {name}")
        state[renamed] = tensor
    state = _shift_downsamples(state) if layout == "openmmlab" else state
    for name in [name for name in state if name.endswith(".running_mean")]:
        state.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    num_classes = state["fc.weight"].shape[0] if "fc.weight" in state and state["fc.weight"].ndim else 0
    check(state, architecture, num_classes)
    return Converted(layout, state, num_classes, left_out)


def detect(names: Mapping[str, object]) -> Layout:
    """Whose names these are.

    Raises:
        ConversionError: Nobody's that is known.
    """
    if any(name.endswith((".gamma", ".beta")) for name in names):
        return "gluon"
    if any(re.match(r"(stem\.conv1_|res[2-5]\.\d+\.)", name) for name in names):
        return "detectron2"
    if any(name.startswith("stem.") for name in names):
        return "openmmlab"
    if any(re.match(r"(conv1\.0|layer1\.0\.conv1)\.weight", name) for name in names):
        return "timm"
    if any(re.search(r"_(gamma|running_mean)$", name) for name in names):
        raise ConversionError(
            f"the checkpoint has Gluon's flat names ({_some(names)}): expected those of save_parameters, such as "
            "layer1.0.bn1.gamma. Load it with MXNet and save it with net.save_parameters"
        )
    raise ConversionError(
        f"the checkpoint's names are not understood: {_some(names)}. Expected a ResNeSt with one of: "
        f"{'; '.join(LAYOUTS.values())}"
    )


def rename(name: str, layout: Layout) -> str:
    """Timm's name of a tensor; a name that is not understood comes back as it is, and `check` reports it."""
    if layout == "gluon":
        stem, _, last = name.rpartition(".")
        return re.sub(r"\.conv2\.bn\.", ".conv2.bn0.", f"{stem}.{_GLUON.get(last, last)}")
    if layout == "detectron2":
        name = re.sub(r"^res([2-5])\.", lambda m: f"layer{int(m[1]) - 1}.", name)
        for pattern, replacement in _DETECTRON2:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        return name
    if layout == "openmmlab":
        for pattern, new in _OPENMMLAB:
            name, count = re.subn(pattern, new, name)
            if count:
                break
    return name


@functools.cache
def expected_shapes(architecture: str, num_classes: int) -> Shapes:
    """Shapes of the variant's state dict by name; not to be changed."""
    model = timm.create_model(architecture, num_classes=num_classes, device="meta")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check(state: Mapping[str, Tensor], architecture: str, num_classes: int) -> None:
    """Raise unless the weights are those of the variant, name by name and shape by shape.

    Raises:
        ConversionError: Names what is missing, left over or of another shape, and the variants that would fit.
    """
    expected = expected_shapes(architecture, num_classes)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {_some(missing)}")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"not in the model: {_some(extra)}")
    if other := [name for name in expected if name in found and found[name] != expected[name]]:
        shapes = [f"{name} {list(found[name])} instead of {list(expected[name])}" for name in other]
        problems.append(f"of another shape: {_some(shapes, 2)}")
    if problems:
        fitting = [name for name in VARIANTS if found == expected_shapes(name, num_classes)]
        hint = f"; the file fits --model {' or '.join(fitting)}" if fitting else ""
        raise ConversionError(f"the weights are not those of {architecture}: {'; '.join(problems)}{hint}")
    if mixed := [name for name, tensor in state.items() if name.endswith("weight") and not tensor.is_floating_point()]:
        raise ConversionError(f"expected weights of floating point, got {state[mixed[0]].dtype} in {_some(mixed)}")


def _network_of(tensors: Mapping[str, Tensor]) -> tuple[State, dict[str, int]]:
    """The backbone and its classifier, without their prefix; and what else the checkpoint holds, counted."""
    prefixes = ("backbone.bottom_up.", "backbone.", "bottom_up.")
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors)), "")
    body = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not prefix:
        return body, {}
    body |= {name: tensor for name, tensor in tensors.items() if name.startswith("head.fc.")}
    rest = [name for name in tensors if not name.startswith((prefix, "head.fc."))]
    return body, dict(Counter(name.split(".")[0] for name in rest))


def _shift_downsamples(state: State) -> State:
    """Give the shortcut's convolution and norm the places 1 and 2 where no pool stands before them.

    mmpretrain leaves the pool out of the first stage, whose stride is 1; everybody else keeps it there.
    """
    unpooled = {m[1] for name in state if (m := re.match(r"(layer\d\.0\.downsample\.)0\.weight", name))}

    def place(name: str) -> str:
        m = re.match(r"(layer\d\.0\.downsample\.)([01])(\..*)", name)
        return f"{m[1]}{int(m[2]) + 1}{m[3]}" if m and m[1] in unpooled else name

    return {place(name): tensor for name, tensor in state.items()}


def _some(names: Mapping[str, object] | list[str], limit: int = 4) -> str:
    shown = ", ".join(list(names)[:limit])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > limit else shown or "none"
