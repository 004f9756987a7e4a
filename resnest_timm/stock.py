"""What timm without this package needs to build one of our models: a name it has, arguments, and a config.json."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import nn

from resnest_timm.resnest import VARIANTS
from resnest_timm.zoo.catalogue import CHECKPOINTS

PROVENANCE = ("tag", "license", "origin_url", "paper_ids", "paper_name", "description", "notes")
"""What a pretrained config says of the weights that were released, which is not true of others."""

# timm has exactly the variants whose weights it hosts.
_IN_TIMM = {checkpoint.architecture for checkpoint in CHECKPOINTS if checkpoint.hub_id}


def stock_form(architecture: str, model_args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture and arguments by which timm without this package builds the same network.

    Args:
        architecture: The name that the model carries, one of `VARIANTS`.
        model_args: Arguments it was built with.

    Returns:
        Name of a stock timm architecture, and its arguments.

    Raises:
        ValueError: Stock timm would give other outputs: a dilated model, or an activation other than ReLU, which its
            split attention ignores.
    """
    if model_args.get("output_stride", 32) != 32:
        raise ValueError(
            f"stock timm cannot reproduce {architecture} at output stride {model_args['output_stride']}: its dilated "
            "ResNeSt differs from the authors'. Use output stride 32"
        )
    if model_args.get("act_layer", "relu") not in ("relu", nn.ReLU):
        raise ValueError(
            f"stock timm cannot reproduce {architecture} with act_layer={model_args['act_layer']!r}: its split "
            "attention stays with ReLU. Use act_layer='relu'"
        )
    if architecture in _IN_TIMM:
        return architecture, dict(model_args)
    nearest = VARIANTS["resnest50d"]
    differences = {key: value for key, value in VARIANTS[architecture].items() if value != nearest[key]}
    return "resnest50d", {**copy.deepcopy(differences), **model_args}


def stock_config(
    model: nn.Module,
    architecture: str,
    arguments: Mapping[str, Any],
    path: Path,
    model_config: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Timm's config.json of a model, in the form that stock timm and transformers both load.

    Args:
        model: A timm model; it is left as it is.
        architecture: The name to write, see `stock_form`.
        arguments: What stock timm must be given to build the model.
        path: Where timm may write a draft.
        model_config: Further entries, for instance `label_names`.
        data_config: timm's, where it differs from the model's pretrained config.
    """
    draft: Any = copy.copy(model)  # timm reads the name and the arguments from attributes
    draft.pretrained_cfg = {**draft.pretrained_cfg, "architecture": architecture}
    draft._model_args = dict(arguments)
    save_config_for_hf(draft, str(path), model_config=dict(model_config or {}), data_config=dict(data_config or {}))
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 passes num_classes itself and refuses it twice; timm 1.0 refuses a null instead of a dict.
    config["model_args"] = {k: v for k, v in config.get("model_args", {}).items() if k != "num_classes"}
    return config
