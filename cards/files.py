"""Where a run's model is, and files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from cards.errors import CardError


def model_folder(run: Path) -> Path:
    """The model of a run's folder; a model's folder itself may be given as well."""
    return run if (run / "config.json").is_file() else run / "model"


def write(path: Path, text: str) -> None:
    """Write a file in UTF-8, replacing it if it is there.

    Raises:
        CardError: It cannot be written; what was there is as it was.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CardError(f"cannot write {path}: {error.strerror or error}") from error
