"""A detector's file: written, and run beside the network on real images before it appears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.errors import ConfigError, ExportError
from finetune.export import onnx, writing
from finetune.export.formats import Format
from finetune.tasks.detection import prepare
from finetune.tasks.detection.exporting import same
from finetune.tasks.detection.exporting.graph import Graph, outputs
from finetune.tasks.detection.networks.layout import Layout


def write(form: Format, network: nn.Module, path: Path, metadata: Mapping[str, str], verify: Path) -> str:
    """Write and compare; see `finetune.task.Exporting`.

    Raises:
        ConfigError: The form is another than ONNX.
        ExportError: The exporter or onnxruntime cannot do it, or they find other objects.
    """
    if form.name != "onnx":
        raise ConfigError(f"--format {form.name}: detectors are written for onnxruntime alone: use --format onnx")
    described: Any = network
    layout: Layout = described.layout
    graph = Graph(network.cpu().float()).eval()
    images, what = _images(verify, layout)
    with writing.whole(path) as part:
        with writing.exporter(form.library):
            onnx.save_traced(graph, part, metadata, images[0][None], outputs(layout))
        with writing.runtime(form.library):
            run = form.load(part, "32", None, 1).named
        total = same.Difference()
        for number, image in enumerate(images):
            found = _compared(form, run, graph, image, layout)
            total += found
            if found.others:
                raise ExportError(
                    f"{form.library} finds other objects than the model in {what}, image {number}: {found.objects} are "
                    f"the same, {found.others} of one have no counterpart in the other's: nothing was written"
                )
    return _said(form, total, what)


def _said(form: Format, total: same.Difference, what: str) -> str:
    ties = f", and {total.ties} that rounding decides on are found by one of both" if total.ties else ""
    masks = f", of a mask's probability {total.mask:.1e}" if total.mask else ""
    return (
        f"{form.library} finds the model's {total.objects} objects in {what}{ties}: largest difference of a score "
        f"{total.score:.1e}, of a side {total.side:.1e} of the image's{masks}"
    )


def _compared(form: Format, run: Any, graph: nn.Module, image: Tensor, layout: Layout) -> same.Difference:
    with torch.inference_mode():
        live = dict(zip(outputs(layout), graph(image[None]), strict=True))
    with writing.runtime(form.library):
        found = {name: torch.from_numpy(value) for name, value in run(image[None].numpy()).items()}
    return same.compare(live, found, layout, max(image.shape[-2:]))


def _images(verify: Path, layout: Layout) -> tuple[list[Tensor], str]:
    """float32 `[3, h, w]`, normalised: the certificate's, and two that make sure of any size and of no object."""
    side = layout.min_size
    plain = torch.full((3, side + 9, side), 128, dtype=torch.uint8)
    path = verify / "inputs.safetensors"
    if path.is_file():
        given = load_file(path)
        taken = [given[name] for name in sorted(given) if name.startswith("pixels_")]
        part = taken[0][:, : -(-3 * taken[0].shape[1] // 4), : -(-2 * taken[0].shape[2] // 3)]
        what = f"{len(taken)} test images, a part of one and a plain one"
        return [prepare.normalised(one, layout) for one in (*taken, part, plain)], what
    noise = torch.Generator().manual_seed(0)
    shapes = ((side, side), (side, side * 5 // 4), (side * 3 // 2, side))
    made = [torch.randint(0, 256, (3, *shape), generator=noise, dtype=torch.uint8) for shape in shapes]
    said = f"{len(made)} images of noise and a plain one, for no real ones are at hand"
    return [prepare.normalised(one, layout) for one in (*made, plain)], said
