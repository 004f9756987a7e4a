"""Published training recipes, one YAML file each; imports no torch, like `finetune.settings.config`."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from finetune.errors import ConfigError, suggest

_FOLDER = resources.files("finetune.settings.recipes")


def names() -> list[str]:
    """The recipes there are."""
    files = _FOLDER.iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def settings(recipe: str, model: str, batch_size: int | None = None) -> dict[str, Any]:
    """What a recipe sets for a model.

    Args:
        recipe: One of `names()`.
        model: A variant that the recipe knows, under any of its names.
        batch_size: Images per optimizer step, where they differ from the recipe's; the learning rate follows.

    Returns:
        Values by field of `finetune.settings.config.RunConfig`.

    Raises:
        ConfigError: No such recipe, or not for this model.
    """
    if recipe not in names():
        raise ConfigError(f"--recipe: unknown {recipe!r}{suggest(recipe, names()) or '.'} Known: {', '.join(names())}")
    found = yaml.safe_load((_FOLDER / f"{recipe}.yaml").read_text(encoding="utf-8"))
    variant = next((v for v in found["variants"] if model in v["names"]), None)
    if variant is None:
        known = [name for v in found["variants"] for name in v["names"]]
        raise ConfigError(f"--recipe {recipe} is for {', '.join(known)}; got --model {model!r}{suggest(model, known)}")
    own = {key: value for key, value in variant.items() if key != "names"}
    images = batch_size or own["batch_size"]
    return {**found["settings"], **own, "batch_size": images, "lr": found["lr_per_256_images"] * images / 256}
