"""What a model says of its task, wherever it lies: transformers' `problem_type` in config.json or a file's metadata."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.networks.model_names import EXPORTED, HUB


def problem_type(model: str | Path) -> str | None:
    """The `problem_type` of a folder, a model on the Hub, or an exported file; None where there is none to be found.

    What is wrong with the model, whoever loads it says.

    Args:
        model: A model's or run's folder, a name, or a file.
    """
    if Path(model).suffix in EXPORTED:
        from finetune.export import formats  # with torch, which to know a task does not take

        form = formats.of_file(model)
        assert form is not None
        try:
            return form.open(Path(model).expanduser()).metadata.get("problem_type")
        except FinetuneError:
            return None
    config = _config(str(model))
    try:
        found = json.loads(config.read_text(encoding="utf-8"))["problem_type"] if config else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _config(name: str) -> Path | None:
    """Where config.json is."""
    if name.startswith(HUB):
        from finetune.data import hub

        repo, _, revision = name.partition(":")[2].partition("@")
        try:
            return hub.fetch(repo, "config.json", revision or None)
        except Exception:  # of a client of the Hub: whoever loads the model meets it again
            return None
    place = Path(name.removeprefix("local-dir:")).expanduser()
    return next((path for path in (place / "config.json", place / "model" / "config.json") if path.is_file()), None)
