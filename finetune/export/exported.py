"""An exported file in the place of a network: all that predicting needs is read from it, and no model is built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from finetune.errors import ConfigError, ModelError
from finetune.export.formats import Format
from finetune.export.network import Network, Precision
from finetune.loading.cores import available_cores

T = TypeVar("T")

_PREPROCESSING = {"input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}


class ExportedModule(nn.Module):
    """Float32 `[B, 3, H, W]` on the CPU -> float32 logits `[B, C]`, computed by the file's own library."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits."""
        return torch.from_numpy(self.network.run(pixels.contiguous().numpy()))


@dataclass(frozen=True)
class ExportedModel:
    """A file, opened.

    Attributes:
        module: Images to logits.
        classes: Names, in the order of the outputs.
        temperature: What logits are divided by; 1 where the model has no calibration.
        data_config: timm's: size, interpolation, crop, mean and std.
        metadata: Text by name: all that the file says of itself.
    """

    module: ExportedModule
    classes: tuple[str, ...]
    temperature: float
    data_config: dict[str, Any]
    metadata: Mapping[str, str]


def opened(
    form: Format,
    path: Path,
    accelerator: str,
    says: str,
    read: Callable[[Network], T],
    precision: Precision = "32",
    batch_size: int = 1,
) -> tuple[Network, T]:
    """Open a file that `export` wrote, with as many threads as PyTorch would take, and read what it says of itself.

    Args:
        form: The file's.
        path: The file.
        accelerator: As the command line takes it.
        says: What the metadata must say, for the error.
        read: Reads them; a `KeyError`, `TypeError` or `ValueError` of it means that they are not what `export` writes.
        precision: Of the arithmetic.
        batch_size: Most batches'.

    Returns:
        The network, and what `read` gave.

    Raises:
        ConfigError: The library is not installed, or cannot do what was asked for.
        ModelError: There is no such file, the library cannot run it, or its metadata do not say how to use it.
    """
    if accelerator not in ("auto", "cpu"):
        raise ConfigError(
            f"--accelerator {accelerator}: {form.library} runs {path.name} on the CPU; give the run itself"
        )
    network = form.open(path, precision, min(torch.get_num_threads(), available_cores()), batch_size)
    try:
        return network, read(network)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected metadata that say {says}, got {', '.join(network.metadata) or 'none'}; use a file that "
            f"`{form.command}` has written, or the run itself"
        ) from error


def read(form: Format, path: Path, accelerator: str, precision: Precision, batch_size: int) -> ExportedModel:
    """Open an exported classifier, or another model whose output are logits of an image.

    Args:
        form: The file's.
        path: The file.
        accelerator: As the command line takes it.
        precision: Of the arithmetic.
        batch_size: Most batches'.

    Raises:
        ConfigError: The library is not installed, or cannot do what was asked for.
        ModelError: There is no such file, the library cannot run it, or its metadata do not say how to use it.
    """
    says = "how to prepare an image, the classes and the temperature"
    return opened(form, path, accelerator, says, _known, precision, batch_size)[1]


def _known(network: Network) -> ExportedModel:
    classes = tuple(str(name) for name in json.loads(network.metadata["classes"]))
    temperature = float(json.loads(network.metadata["temperature"]))
    how: dict[str, Any] = json.loads(network.metadata["preprocessing"])
    if not (classes and 0 < temperature < math.inf and set(how) == _PREPROCESSING):
        raise ValueError("values that cannot be")
    lists = {name: tuple(how[name]) for name in ("input_size", "mean", "std")}
    return ExportedModel(ExportedModule(network), classes, temperature, how | lists, network.metadata)
