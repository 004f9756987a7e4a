"""A run's folder -> model/README.md."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import ModelCard

from cards import data

TEMPLATE = Path(__file__).with_name("template.md")


def render(run: Path) -> str:
    """The card of a complete run, as text.

    Raises:
        CardError: The run is not complete.
    """
    result = data.read(run)
    name = f"{result['model']['architecture']} on {result['dataset']['id']}"
    card = ModelCard.from_template(data.metadata(result, name), template_path=str(TEMPLATE), **data.sections(result))
    return str(card)


def build(run: Path) -> Path:
    """Write the card of a complete run.

    Args:
        run: Run folder, with result.json and model/.

    Returns:
        Path of the card, model/README.md.

    Raises:
        CardError: The run is not complete.
    """
    text = render(run)
    folder = run / "model"
    if not folder.is_dir():
        raise data.CardError(f"{run} holds no exported model: expected {folder}")
    card = folder / "README.md"
    temporary = card.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, card)
    return card
