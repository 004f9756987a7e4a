"""A run's folder -> model/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from cards import files, tasks
from cards.certificate import files as certificate
from cards.errors import CardError
from cards.page import data, head
from cards.page.text import escape


def render(run: Path) -> str:
    """The card of a complete run, as text; the same run gives the same text.

    Raises:
        CardError: The run is not complete, or its result.json lacks what every version writes.
    """
    result, model = data.read(run), run / "model"
    try:
        name = f"{result['model']['architecture']} on {result['dataset']['id']}"
        metadata, sections = head.metadata(result, name, model), data.sections(result, model)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CardError(
            f"{run / 'result.json'} is not as `finetune` writes it ({type(error).__name__}: {error}): restore the "
            "file, or repeat the run by its config.yaml"
        ) from error
    sections["certificate"] = _certificate(model)
    return str(
        ModelCard.from_template(
            metadata, template_path=str(Path(__file__).with_name(tasks.of(result).template)), **sections
        )
    )


def build(run: Path) -> Path:
    """Write the card of a complete run.

    Args:
        run: Run folder, with result.json and model/.

    Returns:
        Path of the card, model/README.md.

    Raises:
        CardError: The run is not complete, or the card cannot be written.
    """
    text = render(run)
    folder = run / "model"
    if not folder.is_dir():
        raise CardError(f"{run} holds no exported model: expected {folder}")
    card = folder / "README.md"
    files.write(card, text)
    return card


def is_current(run: Path) -> bool:
    """Whether model/README.md is what `build` would write: a card that somebody has edited is not."""
    try:
        return (run / "model" / "README.md").read_text(encoding="utf-8") == render(run)
    except (OSError, UnicodeDecodeError, CardError):
        return False


def _certificate(model: Path) -> dict[str, Any] | None:
    """What model/verify.json says, if it says it of these very files; also where it says that a library failed."""
    path = model / certificate.NAME
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        if any(made.get(key) != digest for key, digest in certificate.digests(model).items()):
            return None
        rows = [_library(name, entry, made["images"]) for name, entry in made["checks"].items()]
        return {
            "rows": rows,
            "passed": bool(made["passed"]) and certificate.passed(made["checks"], tasks.of_model(model).required),
            "tolerance": f"{made['tolerance']:g}",
            "sha256": escape(made["weights_sha256"]),
            "images": made["images"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of no use
        return None


def _library(name: str, entry: dict[str, Any], images: int) -> tuple[str, str, str, str]:
    """Library, verdict, largest difference, equal labels."""
    title = escape(f"{name} {entry['version']}" if "version" in entry else name)
    verdict = {True: "passed", False: "**failed**", None: "not tried"}[entry["passed"]]
    if "reason" in entry:
        return title, f"{verdict}: {escape(entry['reason'])}", "", ""
    return title, verdict, f"{entry['largest_difference']:.1e}", f"{entry['labels_equal']} of {images}"
