"""The demo's page of a segmentation: an image in, its classes over it, and which one is where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from torch import nn

from finetune.data import images
from finetune.errors import FinetuneError
from finetune.evaluation.palette import percent
from finetune.networks import model_names, models
from finetune.runs.result import RunResult
from finetune.serving import doors, html
from finetune.serving.page import uploaded
from finetune.tasks.segmentation.answering import palette, pointing
from finetune.tasks.segmentation.answering.answers import located, mask_of
from finetune.tasks.segmentation.answering.prepared import Prepare
from finetune.tasks.segmentation.network import SegmentationNetwork
from finetune.training import hardware

OPACITY = 0.5
Shown = tuple[np.ndarray, np.ndarray]
"""An image uint8 `[H, W, 3]`, and its mask uint8 `[H, W]`."""


def of(load: Callable[[Path], nn.Module], model: str | Path, accelerator: str, uploads: Path) -> gr.Blocks:
    """The page of a run or a model's folder; nothing of it is served yet."""
    network = located(load, model).to(hardware.device(accelerator))
    folder = Path(model_names.locate(model).removeprefix("local-dir:"))
    return build(network, describe(network, folder), uploads)


def describe(network: SegmentationNetwork, folder: Path) -> tuple[str, list[str]]:
    """A title and what is known of the model, from its own files and the result.json beside them."""
    title = f"{network.pretrained_cfg.get('architecture', 'segmentation')} in {folder.name}"
    size = models.data_config(network)["input_size"][-1]
    lines = [f"{len(network.classes)} classes, images with a short side of {size} pixels"]
    path = folder.parent / "result.json"
    if folder.name == "model" and path.is_file():
        known = RunResult.load(path)
        title = f"{known.model['architecture']} on {known.dataset['id']}"
        share, count = known.metrics["test"]["mean_iou"], known.dataset["splits"]["test"]
        lines.insert(0, f"Mean IoU {share:.3f} on {count:,} test images")
    return title, lines


def legend(mask: np.ndarray, classes: Sequence[str]) -> str:
    """HTML: the classes of a mask, each with its colour and its share."""
    colours, numbers = palette.colours(len(classes)), {name: i for i, name in enumerate(classes)}
    rows = [
        f'<li><span style="display:inline-block;width:1em;height:1em;margin-right:.5em;background:rgb'
        f'{tuple(colours[numbers[name]].tolist())}"></span>{html.escape(name)} <small>{percent(share, 1)}</small></li>'
        for name, share in palette.shares(mask, classes).items()
    ]
    return f'<ul style="list-style:none;padding:0">{"".join(rows)}</ul>'


def build(network: SegmentationNetwork, known: tuple[str, list[str]], uploads: Path) -> gr.Blocks:
    """The page.

    Args:
        network: In eval mode, where it is to run.
        known: Title and lines of plain text.
        uploads: The folder in which Gradio keeps what is dropped on the page; no other file is read.
    """
    title, lines = known
    prepare, classes = Prepare(models.data_config(network)), html.unique(network.classes)

    def respond(dropped: dict[str, Any] | None, opacity: float) -> tuple[Any, str, str, Shown | None]:
        return answer_to(network, prepare, classes, uploads, dropped, opacity)

    def paint(shown: Shown | None, opacity: float) -> Any:
        return None if shown is None else palette.overlaid(*shown, len(classes), opacity)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(html.header(title, lines))
        kept = gr.State(None)
        with gr.Row():
            with gr.Column(min_width=280):
                picture = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    height=380,
                    elem_id="picture",
                )
                opacity = gr.Slider(0, 1, OPACITY, label="Opacity of the classes", elem_id="opacity")
            with gr.Column(min_width=280):
                answer = gr.Image(label="Classes", interactive=False, height=380, format="png", elem_id=pointing.ANSWER)
                pointed = gr.HTML("", elem_id=pointing.POINTED)
                names = gr.HTML(html.EMPTY)
        with gr.Accordion(f"All {len(classes)} classes", open=False):
            gr.HTML(html.classes(classes))
        private: dict[str, Any] = {"concurrency_limit": 1, "api_visibility": "private"}
        # preprocess=False: Gradio's own decoding would convert the image, and evaluation must see the file as it is.
        outputs = [answer, names, pointed, kept]
        picture.change(respond, [picture, opacity], outputs, preprocess=False, **private)
        opacity.release(paint, [kept, opacity], answer, **private)
        page.load(None, js=pointing.SCRIPT)
    return page.queue(max_size=32)


def answer_to(
    network: SegmentationNetwork,
    prepare: Prepare,
    classes: Sequence[str],
    uploads: Path,
    dropped: dict[str, Any] | None,
    opacity: float,
) -> tuple[Any, str, str, Shown | None]:
    """What the page shows of an image that was dropped on it.

    Args:
        network: In eval mode, where it is to run.
        prepare: For it.
        classes: Names that can be told apart.
        uploads: See `build`.
        dropped: As Gradio describes the file.
        opacity: Of the classes, 0 to 1.

    Returns:
        The picture with its classes; HTML of these, and of what is told of the pointer; what to keep of it.
    """
    if dropped is None:
        return None, html.EMPTY, "", None
    name = str(dropped.get("orig_name") or "the image")
    try:
        path = uploaded(dropped, uploads)
        doors.remove_later(path)
        picture = images.decode(str(path))
        shown = np.asarray(picture), mask_of(network, prepare, picture)
    except (OSError, ValueError, SyntaxError, FinetuneError) as error:  # SyntaxError: a broken PNG
        reason = " ".join(str(error).split()).replace(str(dropped.get("path")), name)
        return None, html.failure(f"{name} cannot be segmented: {reason}"), "", None
    pointed = pointing.hidden(shown[1], classes)
    return palette.overlaid(*shown, len(classes), opacity), legend(shown[1], classes), pointed, shown
