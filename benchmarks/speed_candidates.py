"""The networks that `model_speed.py` compares, in all their forms, and how one of them is measured."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from speed_runtimes import RUNTIMES, at_hand, exported_call
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.profiler import ProfilerActivity, profile

from resnest_timm import optimize
from resnest_timm.inference.optimize import compile_frozen
from resnest_timm.resnest import VARIANTS

Mode = Literal["inference", "training"]
Dtype = Literal["fp32", "bf16"]
Layout = Literal["NCHW", "NHWC"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Largest difference from timm's float32 outputs, relative to the largest of them."""
GRADIENT_TOLERANCE = 1e-6
"""The same of the loss and of each gradient, computed in float64."""
LEAST_SECONDS = 0.1
"""A measurement repeats its call until about this much time has passed."""


@dataclass(frozen=True)
class Options:
    """Speed and memory of our ResNeSt, timm's own and a plain ResNet-D, interleaved in one process.

    Attributes:
        model: A ResNeSt, by timm's or the authors' name.
        against: The network without split attention.
        batch: Images per call.
        size: Side of the square images, in pixels.
        device: Where; `auto` takes a CUDA GPU where there is one.
        threads: Of PyTorch on the CPU; PyTorch's own choice when not given.
        clock: `wall`, or `cpu`: what this process computed, with one thread, where others use the machine too.
        repeats: Rounds; in each, every candidate is measured once.
        modes: What to measure.
        dtypes: In which arithmetic.
        layouts: Orders of maps in memory; each network is compared in its better one.
        optimize: Measure `resnest_timm.optimize` too, and the others with their BatchNorms folded.
        keep_memory: Keep the memory that PyTorch frees on the CPU, as this project's commands do; the other libraries
            keep theirs anyway.
        runtimes: Measure ours in OpenVINO and onnxruntime, too, in inference on the CPU, where they are installed.
        compile: Measure compiled networks too; compiling one takes minutes.
        compile_modes: Modes that are compiled.
        compile_dtypes: Dtypes that are compiled.
        json: File for every number.
    """

    model: str = "resnest50d"
    against: str = "resnet50d"
    batch: int = 16
    size: int = 224
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    clock: Literal["wall", "cpu"] = "wall"
    repeats: int = 3
    modes: tuple[Mode, ...] = ("inference", "training")
    dtypes: tuple[Dtype, ...] = ("fp32", "bf16")
    layouts: tuple[Layout, ...] = ("NCHW", "NHWC")
    optimize: bool = True
    keep_memory: bool = True
    runtimes: bool = True
    compile: bool = True
    compile_modes: tuple[Mode, ...] = ("inference",)
    compile_dtypes: tuple[Dtype, ...] = ("bf16",)
    json: Path | None = None


@dataclass
class Candidate:
    """One network in one form.

    Attributes:
        who: `ours`, `timm` or `reference`.
        form: `eager`, `optimize`, `compile`, or the library that runs what `export` writes.
        layout: `NCHW` or `NHWC`.
        precision: `fp32`, `bf16` (weights and images cast) or `autocast`.
        call: One batch; returns logits or the loss.
        calls: In one measurement.
        seconds: Of one call, for each round.
        memory: Bytes of tensors alive at once during a call, beyond what was there before.
        difference: From timm's float32 outputs, relative to the largest.
    """

    who: str
    form: str
    layout: Layout
    precision: str
    call: Callable[[], Tensor]
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    difference: float = math.nan

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range of the seconds, relative to their median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median


# --- networks --------------------------------------------------------------------------------------------------------


def build_ours(name: str) -> nn.Module:
    return cast(nn.Module, timm.create_model(name))


def build_timm(name: str) -> nn.Module:
    """Timm's own classes, whose names in the registry are taken over."""
    return cast(nn.Module, ResNet(**{**VARIANTS[name], "block": ResNestBottleneck}))


@torch.no_grad()
def randomize_norms(model: nn.Module) -> None:
    """Timm starts each block's last norm at zero: any two blocks would give equal outputs, those of their shortcuts."""
    generator = torch.Generator().manual_seed(0)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            last = name.endswith("bn3")  # below 1, so that deep networks do not amplify rounding
            module.weight.copy_(uniform(module.weight, 0.1, 0.2) if last else uniform(module.weight, 0.9, 1.1))
            module.bias.copy_(uniform(module.bias, -0.2, 0.2))
            cast(Tensor, module.running_mean).copy_(uniform(module.bias, -0.2, 0.2))
            cast(Tensor, module.running_var).copy_(uniform(module.bias, 0.7, 1.3))


def make_images(batch: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise of another brightness and contrast in each image: alike, BatchNorm of their averages amplifies rounding."""
    generator = torch.Generator().manual_seed(1)
    brightness, contrast = torch.randn(2, batch, 3, 1, 1, generator=generator)
    return (torch.randn(batch, 3, size, size, generator=generator) * contrast.exp() + brightness).to(dtype)


def build_all(options: Options) -> dict[str, nn.Module]:
    """The three networks, float32 on the CPU; ours and timm's with the same weights."""
    torch.manual_seed(0)
    networks = {
        "ours": build_ours(options.model),
        "timm": build_timm(options.model),
        "reference": timm.create_model(options.against),
    }
    for network in (networks["ours"], networks["reference"]):
        randomize_norms(network)
    networks["timm"].load_state_dict(networks["ours"].state_dict())
    return networks


# --- candidates ------------------------------------------------------------------------------------------------------


def candidates(networks: dict[str, nn.Module], mode: Mode, dtype: Dtype, options: Options) -> Iterator[Candidate]:
    """Every form of every network in one mode and dtype; bf16 inference both ways, training by autocast as is usual."""
    precisions = ["fp32"] if dtype == "fp32" else ["autocast"] if mode == "training" else ["bf16", "autocast"]
    for who in networks:
        for layout in options.layouts:
            for precision in precisions:
                yield candidate(networks, who, "eager", layout, precision, mode, options)
    layout: Layout = "NHWC" if "NHWC" in options.layouts else "NCHW"  # inductor chooses its own
    if options.optimize and mode == "inference":
        for who in networks:
            for layout_ in [layout] if who == "ours" else options.layouts:
                yield candidate(networks, who, "optimize", layout_, dtype, mode, options)
    if options.compile and mode in options.compile_modes and dtype in options.compile_dtypes:
        for who in networks:
            yield candidate(networks, who, "compile", layout, precisions[0], mode, options)
    if options.runtimes and mode == "inference" and options.device == "cpu":
        yield from exported(networks["ours"], dtype, options)


def exported(network: nn.Module, dtype: Dtype, options: Options) -> Iterator[Candidate]:
    """Ours as `export` writes it and `predict` runs it; float32 images go in."""
    images = make_images(options.batch, options.size)
    for library in at_hand(dtype):
        yield Candidate("ours", library, "NCHW", dtype, exported_call(library, network, images, dtype))


def folded(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorms are folded into the convolutions by PyTorch's own tool, for timm's network."""
    return cast(nn.Module, fuse(copy.deepcopy(network).eval()))


def candidate(
    networks: dict[str, nn.Module],
    who: str,
    form: str,
    layout: Layout,
    precision: str,
    mode: Mode,
    options: Options,
) -> Candidate:
    """One network of its own, ready to be called."""
    weights = torch.bfloat16 if precision == "bf16" else torch.float32
    place: dict[str, Any] = {"device": options.device, "memory_format": LAYOUTS[layout]}
    images = make_images(options.batch, options.size, weights).to(**place)
    if form == "optimize" and who == "timm":
        network = folded(networks[who]).to(dtype=weights, **place)
    elif form == "optimize" or (who == "ours" and mode == "inference" and form != "eager"):
        network = optimize(
            networks[who].to(options.device),
            dtype=weights,
            channels_last=layout == "NHWC",
            compile=form == "compile",
            input_size=(3, options.size, options.size),
        )
    else:
        network = copy.deepcopy(networks[who]).to(dtype=weights, **place).train(mode == "training")
        if form == "compile":
            compile_frozen(network) if mode == "inference" else network.compile()
    autocast = torch.autocast(options.device, torch.bfloat16, enabled=precision == "autocast")
    call = _inference(network, images, autocast) if mode == "inference" else _training(network, images, autocast)
    return Candidate(who, form, layout, precision, call)


def _inference(network: nn.Module, images: Tensor, autocast: contextlib.AbstractContextManager[Any]) -> Any:
    def call() -> Tensor:
        with torch.no_grad(), autocast:
            return cast(Tensor, network(images))

    return call


def _training(network: nn.Module, images: Tensor, autocast: contextlib.AbstractContextManager[Any]) -> Any:
    """Forward, cross entropy, backward; the optimizer's step, which is the same for all, is left out."""
    targets = torch.arange(len(images), device=images.device) % 10

    def call() -> Tensor:
        network.zero_grad()
        with autocast:
            loss = F.cross_entropy(network(images), targets)
        loss.backward()
        return loss.detach()

    return call


# --- equality --------------------------------------------------------------------------------------------------------


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def gradients_differ(networks: dict[str, nn.Module]) -> float:
    """Largest relative difference of loss and gradients of a training step, ours from timm's, in float64."""
    images = make_images(4, 64, torch.float64)
    steps = []
    for who in ("ours", "timm"):
        network = copy.deepcopy(networks[who]).double().train()
        loss = F.cross_entropy(network(images), torch.arange(4))
        loss.backward()
        steps.append([loss.detach(), *(cast(Tensor, parameter.grad) for parameter in network.parameters())])
    names = ["loss", *(name for name, _ in networks["ours"].named_parameters())]
    largest = 0.0
    for name, ours, theirs in zip(names, *steps, strict=True):
        if not (name.endswith("conv2.fc1.bias") or float(theirs.abs().max()) == 0):  # before a norm: mere rounding
            largest = max(largest, difference(ours, theirs))
    return largest


def unequal(row: list[Candidate], dtype: Dtype, gradients: float | None) -> bool:
    """Whether any of ours differs from timm's float32 more than it may, or than twice what timm's own rounding does."""
    theirs = max(candidate.difference for candidate in row if candidate.who == "timm")
    limit = TOLERANCE[dtype] if dtype == "fp32" else max(TOLERANCE[dtype], 2 * theirs)
    ours = [candidate.difference for candidate in row if candidate.who == "ours"]
    too_far = any(not value <= limit for value in [*ours, theirs])  # not a number is unequal too
    return too_far or (gradients is not None and not gradients <= GRADIENT_TOLERANCE)


# --- measurements ----------------------------------------------------------------------------------------------------


def timed(call: Callable[[], Tensor], device: str, calls: int = 1, clock: str = "wall") -> float:
    """Seconds of one call, averaged."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = now()
    for _ in range(calls):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (now() - start) / calls


def peak_memory(call: Callable[[], Tensor], device: str) -> tuple[int, float]:
    """Bytes of tensors alive at once during a call, beyond what was there before, and the call's seconds.

    Scratch space of kernels does not count. On the CPU the allocator's events in PyTorch's profiler are added up: they
    do not depend on what the process did before, as its resident set size does.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = timed(call, device)
        return torch.cuda.max_memory_allocated() - before, seconds
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        seconds = timed(call, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak, seconds


def measure_group(networks: dict[str, nn.Module], mode: Mode, dtype: Dtype, options: Options) -> list[Candidate]:
    """All candidates of one mode and dtype: called once to warm up and compare, then measured in rounds."""
    reference = candidate(networks, "timm", "eager", options.layouts[0], "fp32", mode, options)
    expected = reference.call()
    group = []
    for entry in candidates(networks, mode, dtype, options):
        if entry.who == "reference":
            entry.call()
        else:
            entry.difference = difference(entry.call(), expected)
        entry.memory, seconds = peak_memory(entry.call, options.device)
        entry.memory = None if entry.form in RUNTIMES else entry.memory  # PyTorch does not see theirs
        entry.calls = math.ceil(LEAST_SECONDS / seconds) if seconds < LEAST_SECONDS else 1
        group.append(entry)
        print(f"  {mode} {dtype}: {entry.who} {entry.form} {entry.layout} {entry.precision}", file=sys.stderr)
    for round_ in range(options.repeats):
        start = round_ * len(group) // options.repeats  # no candidate always comes after the same slow one
        for entry in group[start:] + group[:start]:
            entry.seconds.append(timed(entry.call, options.device, entry.calls, options.clock))
    return group
