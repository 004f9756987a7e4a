"""A published model -> the folder of a Gradio Space that shows it: app.py, requirements.txt, README.md."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from cards import tasks
from cards.errors import CardError
from cards.files import write
from cards.hub.access import check_name
from cards.tasks import CardTask

GRADIO = "6.31.0"
"""The version that the app was tried with; of the Space where no Gradio is installed here."""

_NEEDED = ("config.json", "model.safetensors")
_REQUIRED = ("torch", "torchvision", "timm", "safetensors")
_PLACEHOLDER = 'MODEL = "OWNER/NAME"'


def build(model: Path, repo_id: str, folder: Path) -> Path:
    """Write a Space's folder. Other files in it stay; each of ours appears whole or not at all.

    The app needs nothing of this project. Versions are those that are installed here, with which the model was tried.

    Args:
        model: The model's folder, with config.json and model.safetensors.
        repo_id: OWNER/NAME under which the model is on the Hub, and the Space will be.
        folder: Made where there is none.

    Returns:
        The folder.

    Raises:
        CardError: There is no model, or `repo_id` is no repository's name.
    """
    if missing := [name for name in _NEEDED if not (model / name).is_file()]:
        raise CardError(f"{model} holds no model (no {', '.join(missing)}): give the model/ of a complete run")
    check_name(repo_id)
    files = {
        "app.py": _app(tasks.of_model(model), repo_id),
        "requirements.txt": _requirements(tasks.of_model(model)),
        "README.md": _readme(model, repo_id),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write(folder / name, text)
    return folder


def instructions(folder: Path, repo_id: str) -> str:
    """How to push a folder that `build` made."""
    return (
        f"hf repos create {repo_id} --type space --space-sdk gradio --exist-ok\n"
        f"hf upload {repo_id} {folder} . --type space"
    )


def _app(task: CardTask, repo_id: str) -> str:
    text = Path(__file__).with_name(task.app).read_text(encoding="utf-8")
    assert text.count(_PLACEHOLDER) == 1  # a mistake of ours, not the user's
    return text.replace(_PLACEHOLDER, f"MODEL = {json.dumps(repo_id)}")


def _requirements(task: CardTask) -> str:
    """The same versions of what computes the answer; Pillow and huggingface_hub are for Gradio to choose."""
    lines = []
    for name in (*_REQUIRED, *task.packages):
        try:
            lines.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            lines.append(name)
    return "\n".join(lines) + "\n"


def _readme(model: Path, repo_id: str) -> str:
    """The Space's card: only text of ours, numbers, and a name that the Hub allows."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if (model / tasks.OURS).is_file():
        ours = json.loads((model / tasks.OURS).read_text(encoding="utf-8"))
        config = {"num_classes": len(ours["classes"]), "calibration": {"temperature": ours.get("temperature")}}
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = GRADIO
    task = tasks.of_model(model)
    name = next(name for name, row in tasks.TASKS.items() if row is task)
    pipeline = task.pipeline or name
    data = SpaceCardData(
        title=repo_id.partition("/")[2],
        sdk="gradio",
        sdk_version=gradio,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=[repo_id],
        tags=list(dict.fromkeys([pipeline, name, task.library])),
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {repo_id.partition('/')[2]}\n\n"
        f"Drop an image, and [the model](https://huggingface.co/{repo_id}) {_says(model, task, config)}. What it was "
        "trained on, and how good it is, its card says.\n"
    )


def _says(model: Path, task: CardTask, config: dict[str, Any]) -> str:
    """What the model does with an image."""
    if config.get("problem_type") == "regression":
        return "gives its number" + (", and the interval that is meant to hold it" if "calibration" in config else "")
    calibrated = (config.get("calibration") or {}).get("temperature") is not None
    words = "calibrated probabilities" if calibrated else "the model's own probabilities: it has no calibration"
    words = "drawn over it" if (model / tasks.OURS).is_file() else f"with {words}"
    return f"{task.says} {int(config['num_classes'])} classes, {words}"
