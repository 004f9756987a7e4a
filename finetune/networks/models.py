"""(name, classes) -> a timm model with the right head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError
from timm.data import resolve_data_config
from torch import nn

import resnest_timm
from cards.hub.patience import TransportError
from finetune.data import hub
from finetune.errors import ModelError
from finetune.networks.model_names import HUB, check_name
from finetune.runs import model_files


def build(
    name: str,
    num_classes: int | None,
    pretrained: bool = True,
    image_size: int | None = None,
    zero_init_last: bool = True,
    drop_path: float | None = None,
    dropout: float | None = None,
    drop_block: float | None = None,
) -> nn.Module:
    """Build a model.

    Args:
        name: timm name, `hf-hub:OWNER/NAME` or `local-dir:PATH`.
        num_classes: Outputs of the new head; a pretrained head of as many classes is kept, and with None any.
        pretrained: Load its weights.
        image_size: Side of the square input in pixels, checked against the model; its own when not given.
        zero_init_last: Without pretrained weights: whether the last norm of a residual block starts with a weight of
            zero, where timm has it so, or of one.
        drop_path: Rate of stochastic depth; the model's own when not given.
        dropout: Rate of dropout before the classifier; the model's own when not given.
        drop_block: Rate of DropBlock in the last two stages of a ResNet; none when not given. In a ResNeSt it stands
            where the authors have it, see `resnest_timm.drop_block.add`.

    Returns:
        A model with timm's `pretrained_cfg`, and with `calibration` where its weights are loaded;
        float32 `[B, 3, H, W]` -> `[B, num_classes]`.

    Raises:
        ModelError: Unknown, unreachable, damaged, without weights, or unfit for the image size.
        RunFolderError: A file is another than the one that was verified or written.
    """
    check_name(name)
    if name.startswith("local-dir:"):
        model_files.check(Path(name.removeprefix("local-dir:")))
    arguments = {"drop_path_rate": drop_path, "drop_rate": dropout} | _size_arguments(name, image_size)
    if pretrained:
        _fetch_weights(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **arguments)
    except GatedRepoError as error:
        raise ModelError(_gated(name)) from error
    except RepositoryNotFoundError as error:
        raise ModelError(_missing(name)) from error
    except (OSError, RuntimeError, LookupError, AttributeError, AssertionError, TypeError, ValueError) as error:
        raise ModelError(_explain(name, error)) from error
    except (TransportError, SafetensorError) as error:
        raise ModelError(_explain(name, error)) from error
    if not pretrained and not zero_init_last:
        _start_all_branches(model)
    if drop_block and not resnest_timm.add_drop_block(model, drop_block):
        raise ModelError(f"--drop-block is for ResNeSts only, got --model {name}; --drop-path works for most models")
    if image_size is not None:
        _check_image_size(model, name, image_size)
    if pretrained:
        described: Any = model
        described.calibration = calibration(name)
    return model


def calibration(name: str) -> dict[str, Any]:
    """What a model's config.json says of how its outputs are to be taken; empty where it has none.

    Args:
        name: As `build` takes it; timm's own models have none.
    """
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        path = Path(place) / "config.json"
    elif name.startswith(HUB):
        repo, _, revision = place.partition("@")
        path = Path(hf_hub_download(repo, "config.json", revision=revision or None))
    else:
        return {}
    found = json.loads(path.read_text(encoding="utf-8")).get("calibration") if path.is_file() else None
    return found if isinstance(found, dict) else {}


def _start_all_branches(model: nn.Module) -> None:
    """Let residual branches that timm starts at zero (https://arxiv.org/abs/1706.02677, 5.1) take part at once.

    A branch behind a norm of weight zero does not change the output, and its convolutions get no gradient, before that
    weight has grown; with few steps in all, that costs accuracy (docs/explanation/presets.md).
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)


def _fetch_weights(name: str) -> None:
    """Bring the weights that timm will load from the Hub into the cache, whole; timm does not look at their content.

    Raises:
        ModelError: They cannot be fetched, or arrive damaged.
    """
    repo = _repository(name)
    if repo is None:
        return
    hub.reachable()
    repo_id, _, revision = repo.partition("@")
    try:
        for filename in (*(["config.json"] if name.startswith(HUB) else []), constants.SAFETENSORS_SINGLE_FILE):
            hub.fetch(repo_id, filename, revision or None)
    except GatedRepoError as error:
        raise ModelError(_gated(name)) from error
    except RepositoryNotFoundError as error:
        raise ModelError(_missing(name)) from error
    except (OSError, ValueError, TransportError) as error:
        raise ModelError(_explain(name, error)) from error


def _repository(name: str) -> str | None:
    """OWNER/NAME[@REVISION] of the Hub repository that timm takes the weights from; None where it is another place."""
    if name.startswith(HUB):
        return name.partition(":")[2]
    if name.startswith("local-dir:"):
        return None
    config = timm.get_pretrained_cfg(name)
    other = config is None or config.file or config.state_dict or config.hf_hub_filename
    return None if other else config.hf_hub_id or None


def is_depthwise(name: str) -> bool:
    """Whether a network that `build` would give works in convolutions of one channel a group; nothing is allocated.

    Of its layers' output channels three in ten or more are of such: a rule of thumb that parts those that bfloat16 was
    seen to slow down (tf_efficientnet_lite0, mobilenetv4_conv_small) from those that it did not (convnext_atto,
    efficientnetv2_rw_t). False for a network that cannot be built: `build` says why.
    """
    if name.startswith(HUB):
        hub.reachable()  # its config is asked for
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except Exception:  # of a name's own code, or of the Hub, where its config lies
        return False
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    linear = sum(module.out_features for module in model.modules() if isinstance(module, nn.Linear))
    depthwise = sum(of.out_channels for of in convolutions if 1 < of.groups == of.in_channels)
    return depthwise >= 0.3 * (sum(of.out_channels for of in convolutions) + linear)


def data_config(model: nn.Module, image_size: int | None = None, interpolation: str | None = None) -> dict[str, Any]:
    """How the model wants its images: timm's data config, at another size or interpolation where one is given."""
    args: dict[str, Any] = {} if image_size is None else {"input_size": (3, image_size, image_size)}
    args |= {} if interpolation is None else {"interpolation": interpolation}
    config: dict[str, Any] = resolve_data_config(args, model=model)
    return config


def _size_arguments(name: str, image_size: int | None) -> dict[str, Any]:
    """Transformers are built for one size, convolutional networks for any."""
    if image_size is None or name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return {}
    config = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if config and config.fixed_input_size else {}


def _check_image_size(model: nn.Module, name: str, image_size: int) -> None:
    """A map smaller than one pixel, or a shape the model was not built for."""
    info = getattr(model, "feature_info", None)
    entries = info if isinstance(info, list) else []
    stride = max((entry["reduction"] for entry in entries if isinstance(entry["reduction"], int)), default=1)
    if image_size < stride:
        raise ModelError(
            f"--image-size {image_size} is too small for {name}, which halves its input down to 1/{stride}: use "
            f"{stride} or more"
        )
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"--image-size {image_size} does not fit {name}: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        model.train()


def _gated(name: str) -> str:
    return f"{name} is gated: accept its conditions on the Hub, then log in (`hf auth login`)"


def _missing(name: str) -> str:
    return f"{name}: no such repository at {constants.ENDPOINT}, or it is private: check the name"


def _explain(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, resnest_timm.WeightsError):
        return text
    if "weights_only" in text:  # PyTorch's own words tell how to run the code that may be in it
        return f"cannot build {name}: its weights are no plain tensors; a file that may run code is refused"
    if "No pretrained weights" in text:
        return f"{name} has no pretrained weights; --no-pretrained trains it from scratch"
    repo = _repository(name)
    page = f"{constants.ENDPOINT}/{repo.partition('@')[0]}" if repo else constants.ENDPOINT
    if not name.startswith("local-dir:") and (reason := hub.explain(error, page)):
        return f"cannot fetch the weights of {name}: {reason}"
    if isinstance(error, OSError) and not name.startswith("local-dir:"):
        return (
            f"cannot fetch the weights of {name}: tried {constants.ENDPOINT}, and they are not in the local cache "
            f"({type(error).__name__}). Behind a mirror set HF_ENDPOINT; without a network give "
            "--model local-dir:PATH, or train from scratch (--no-pretrained)"
        )
    return f"cannot build {name}: {text}"
