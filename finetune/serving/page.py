"""The demo's page: an image in, calibrated probabilities and the preferences of split attention out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from finetune.data import images
from finetune.errors import FinetuneError
from finetune.evaluation.palette import percent
from finetune.runs.result import RunResult
from finetune.serving import doors, html
from finetune.serving.predictor import Predictor
from resnest_timm.preferences import has_splits, record_splits

TOP = 5
"""Classes with a bar."""


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        top: Names and calibrated probabilities of the most probable classes, highest first.
        preferences: Weights of the splits by stage; None of a model without split attention.
    """

    top: list[tuple[str, float]]
    preferences: list[list[float]] | None


def classify(predictor: Predictor, path: Path) -> Answer:
    """Classify an image file as the evaluation would.

    Raises:
        OSError, ValueError, SyntaxError: It does not decode, see `finetune.data.images.decode`.
        ModelError: An output is not finite.
    """
    pixels = predictor.transform(images.decode(str(path)))[None]
    preferences = None
    if has_splits(predictor.model):
        with record_splits(predictor.model) as record:
            probabilities = predictor.probabilities(pixels)[0]
        preferences = record.preferences()[0].tolist()
    else:
        probabilities = predictor.probabilities(pixels)[0]
    names = html.unique(predictor.classes)
    highest, indices = torch.topk(probabilities, min(TOP, len(names)))
    return Answer([(names[i], p) for i, p in zip(indices.tolist(), highest.tolist(), strict=True)], preferences)


def describe(predictor: Predictor) -> tuple[str, list[str]]:
    """A title and what is known of the model, from its own files and the result.json beside them.

    Args:
        predictor: The model.

    Returns:
        Title and lines of plain text.
    """
    config: Any = getattr(predictor.model, "pretrained_cfg", {})
    scheme, _, place = predictor.name.partition(":")
    title = f"{config.get('architecture', '')} in {Path(place).name}" if scheme == "local-dir" else predictor.name
    side = " x ".join(str(size) for size in predictor.data_config["input_size"][1:])
    lines = [f"{len(predictor.classes)} classes, images of {side} pixels"]
    result = Path(place).parent / "result.json"
    helps = True
    if scheme == "local-dir" and Path(place).name == "model" and result.is_file():
        known = RunResult.load(result)
        title = f"{known.model['architecture']} on {known.dataset['id']}"
        lines.insert(0, _accuracy(known))
        test = known.evaluation.get("calibration", {}).get("test")
        helps = test is None or test["error_calibrated"] <= test["error"]
    if predictor.calibrated and not helps:
        lines.append(f"Probabilities are at temperature {predictor.temperature:.3g}, which did not help on test images")
    elif predictor.calibrated:
        lines.append(f"Probabilities are calibrated: temperature {predictor.temperature:.3g}, fitted on validation")
    else:
        lines.append("Probabilities are the model's own: it has no calibration")
    return title, lines


def _accuracy(result: RunResult) -> str:
    share, count = result.metrics["test"]["accuracy"], result.dataset["splits"]["test"]
    ends = result.evaluation.get("intervals", {}).get("test", {}).get("accuracy")
    interval = f" ({percent(result.evaluation['intervals']['level'])} interval {_span(ends)})" if ends else ""
    return f"Accuracy {percent(share, 1)}{interval} on {count:,} test images"


def _span(ends: list[float]) -> str:
    return " to ".join(percent(end, 1) for end in ends)


def build(predictor: Predictor, uploads: Path) -> gr.Blocks:
    """The page; nothing of it is served yet.

    Args:
        predictor: The model.
        uploads: The folder in which Gradio keeps what is dropped on the page; no other file is read.
    """
    title, lines = describe(predictor)

    def respond(dropped: dict[str, Any] | None) -> tuple[str, str]:
        if dropped is None:
            return html.EMPTY, ""
        name = str(dropped.get("orig_name") or "the image")
        try:
            path = uploaded(dropped, uploads)
            doors.remove_later(path)
            found = classify(predictor, path)
        except (OSError, ValueError, SyntaxError, FinetuneError) as error:  # SyntaxError: a broken PNG
            reason = " ".join(str(error).split()).replace(str(dropped.get("path")), name)
            return html.failure(f"{name} cannot be classified: {reason}"), ""
        return html.answer(found.top), html.splits(found.preferences) if found.preferences else ""

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
            with gr.Column(min_width=280):
                answer = gr.HTML(html.EMPTY)
                splits = gr.HTML()
        with gr.Accordion(f"All {len(predictor.classes)} classes", open=False):
            gr.HTML(html.classes(predictor.classes))
        # preprocess=False: Gradio's own decoding would convert the image, and evaluation must see the file as it is.
        # One image at a time: what the splits prefer is recorded on the model.
        picture.change(
            respond, picture, [answer, splits], preprocess=False, concurrency_limit=1, api_visibility="private"
        )
    return page.queue(max_size=32)


def uploaded(dropped: dict[str, Any], uploads: Path) -> Path:
    """The file that Gradio stored.

    Raises:
        ValueError: It is no file, or lies elsewhere.
    """
    path = Path(str(dropped.get("path") or "")).resolve()
    if not path.is_relative_to(uploads.resolve()) or not path.is_file():
        raise ValueError("nothing was uploaded")
    return path
