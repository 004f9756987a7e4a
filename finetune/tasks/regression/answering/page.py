"""The demo's page of a regression: an image in, the number and its interval out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from finetune.data import images
from finetune.runs.result import RunResult
from finetune.serving import html, page
from finetune.tasks.regression.answering.predictor import NumberPrediction, NumberPredictor


def build(predictor: NumberPredictor, uploads: Path) -> gr.Blocks:
    """The page; nothing of it is served yet.

    Args:
        predictor: The model.
        uploads: The folder in which Gradio keeps what is dropped on the page; no other file is read.
    """
    title, lines = describe(predictor)

    def answer(path: Path) -> tuple[str, str]:
        (found,) = predictor.predict(predictor.transform(images.decode(str(path)))[None])
        return said(found, predictor), ""

    made = page.assemble(title, lines, answer, uploads, "answered", "Drop an image, and its number appears here.")
    return made.queue(max_size=32)


def said(found: NumberPrediction, predictor: NumberPredictor) -> str:
    """The number and its interval as HTML."""
    interval = predictor.interval
    lines = [f"{predictor.classes[0]}"]
    if interval is not None and found.low is not None and found.high is not None:
        lines.append(f"{100 * interval.level:g} % of images lie within {found.low:.6g} to {found.high:.6g}")
    return html.statement(f"{found.value:.6g}", lines)


def describe(predictor: NumberPredictor) -> tuple[str, list[str]]:
    """A title and what is known of the model, from its own files and the result.json beside them."""
    config: Any = getattr(predictor.model, "pretrained_cfg", {})
    scheme, _, place = predictor.name.partition(":")
    title = f"{config.get('architecture', '')} in {Path(place).name}" if scheme == "local-dir" else predictor.name
    side = " x ".join(str(size) for size in predictor.data_config["input_size"][1:])
    lines = [f"A number an image: {predictor.classes[0]}; images of {side} pixels"]
    result = Path(place).parent / "result.json"
    if scheme == "local-dir" and Path(place).name == "model" and result.is_file():
        known = RunResult.load(result)
        title = f"{known.model['architecture']} on {known.dataset['id']}"
        error, count = known.metrics["test"]["mae"], known.dataset["splits"]["test"]
        lines.insert(0, f"Mean absolute error {error:.4g} on {count:,} test images")
    if predictor.interval is None:
        lines.append("It has no interval for single predictions")
    else:
        found = predictor.interval
        lines.append(
            f"Interval: +- {found.half_width:.4g}, meant to hold {100 * found.level:g} %, fitted on validation"
        )
    return title, lines
