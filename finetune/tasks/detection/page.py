"""The demo's page of a detector: an image in, its objects over it, and a slider for how sure they must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from finetune.data import images
from finetune.errors import FinetuneError
from finetune.runs.result import RunResult
from finetune.serving import doors, html
from finetune.serving.page import uploaded
from finetune.tasks.detection import prepare
from finetune.tasks.detection.answers import ObjectAnswers
from finetune.tasks.detection.figures.boxes import colour
from finetune.tasks.detection.judging import threshold
from finetune.tasks.detection.reads.masks import decoded

LEAST = 0.01
Shown = tuple[np.ndarray, list[dict[str, Any]]]
"""An image uint8 `[H, W, 3]`, and all that was found in it."""


def describe(answers: ObjectAnswers, folder: Path) -> tuple[str, list[str]]:
    """A title and what is known of the model, from its own files and the result.json beside them."""
    layout = answers.layout
    title = f"{layout.detector} over {layout.architecture}"
    lines = [f"{len(answers.classes)} classes, images with a short side of {layout.min_size} pixels"]
    path = folder.parent / "result.json"
    if folder.name == "model" and path.is_file():
        known = RunResult.load(path)
        title = f"{title} on {known.dataset['id']}"
        test, count = known.metrics["test"], known.dataset["splits"]["test"]
        lines.insert(0, f"AP {test.get('mask_map', test['map']):.3f} on {count:,} test images")
    return title, lines


def look(answers: ObjectAnswers, path: Path) -> Shown:
    """An image file as the evaluation would see it, and all that is found in it.

    Raises:
        OSError, ValueError, SyntaxError: It does not decode, see `finetune.data.images.decode`.
    """
    picture = images.decode(str(path))
    return np.asarray(picture), answers.objects(answers.find(prepare.whole(picture)), LEAST)


def annotated(shown: Shown | None, least: float) -> tuple[Image.Image, list[tuple[Any, str]]] | None:
    """What Gradio's `AnnotatedImage` takes: the image, and outlines or masks with their names.

    Args:
        shown: Of `look`.
        least: Calibrated score from which on an object is shown.
    """
    if shown is None:
        return None
    pixels, objects = shown
    parts: list[tuple[Any, str]] = []
    for one in objects:
        if one["score"] >= least:
            place: Any = tuple(round(side) for side in one["box"])
            if "mask" in one:
                place = decoded(one["mask"]).astype(np.float32)
            parts.append((place, one["label"]))
    return Image.fromarray(pixels), parts


def table(shown: Shown | None, least: float) -> str:
    """HTML: the objects with their scores, the surest first."""
    if shown is None:
        return html.EMPTY
    rows = [one for one in shown[1] if one["score"] >= least]
    items = [f"<li>{html.escape(one['label'])} <small>{one['score']:.2f}</small></li>" for one in rows]
    return f"<ol>{''.join(items)}</ol>" if items else "<p>nothing found that is sure enough</p>"


def build(answers: ObjectAnswers, uploads: Path) -> gr.Blocks:
    """The page; nothing of it is served yet.

    Args:
        answers: The model.
        uploads: The folder in which Gradio keeps what is dropped on the page; no other file is read.
    """
    title, lines = describe(answers, answers.folder)
    start = float(threshold.calibrated(np.array([answers.threshold]), answers.temperature)[0])
    names = html.unique(answers.classes)

    def respond(dropped: dict[str, Any] | None, least: float) -> tuple[Any, str, Shown | None]:
        if dropped is None:
            return None, html.EMPTY, None
        name = str(dropped.get("orig_name") or "the image")
        try:
            path = uploaded(dropped, uploads)
            doors.remove_later(path)
            shown = look(answers, path)
        except (OSError, ValueError, SyntaxError, FinetuneError) as error:  # SyntaxError: a broken PNG
            reason = " ".join(str(error).split()).replace(str(dropped.get("path")), name)
            return None, html.failure(f"{name} cannot be looked at: {reason}"), None
        return annotated(shown, least), table(shown, least), shown

    def again(shown: Shown | None, least: float) -> tuple[Any, str]:
        return annotated(shown, least), table(shown, least)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(html.header(title, lines))
        with gr.Row():
            with gr.Column(min_width=280):
                picture = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=["fullscreen"],
                    height=380,
                    elem_id="picture",
                )
                least = gr.Slider(LEAST, 1, value=round(start, 3), step=0.01, label="Score from which on it is shown")
            with gr.Column(min_width=280):
                drawn = gr.AnnotatedImage(
                    label="Found", color_map={name: colour(label) for label, name in enumerate(answers.classes)}
                )
                answer = gr.HTML(html.EMPTY)
        with gr.Accordion(f"All {len(names)} classes", open=False):
            gr.HTML(html.classes(answers.classes))
        kept = gr.State(None)
        # preprocess=False: Gradio's own decoding would convert the image, and evaluation must see the file as it is.
        picture.change(
            respond,
            [picture, least],
            [drawn, answer, kept],
            preprocess=False,
            concurrency_limit=1,
            api_visibility="private",
        )
        least.release(again, [kept, least], [drawn, answer], api_visibility="private")
    return page.queue(max_size=32)
