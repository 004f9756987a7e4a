"""An exported network as its own library runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Precision = Literal["32", "bf16"]


@dataclass(frozen=True)
class Network:
    """What was read from a file.

    Attributes:
        metadata: Text by name, see `finetune.export.flow.metadata`; of somebody else's file there may be none.
        run: float32 `[B, 3, H, W]`, normalised -> float32 logits `[B, C]`.
        named: The same input -> all outputs, by their names; None of a library in which no file has several.
    """

    metadata: Mapping[str, str]
    run: Callable[[Array], Array]
    named: Callable[[Array], dict[str, Array]] | None = None
