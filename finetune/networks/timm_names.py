"""What timm calls its models, weights and optimizers, remembered between commands.

Asking timm means to import it and torch, which takes seconds; a mistyped name should not. The answer of the first
command lies in a file of the user's cache (`HF_ASSETS_CACHE`), one for each installation, and holds as long as no
module of timm or of `resnest_timm` that registers names has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

_REGISTERING = (("timm", ("models", "optim", ".")), ("resnest_timm", (".",)))
"""Packages, and the folders in them whose modules register names, or say which version it is."""


@dataclass(frozen=True)
class Names:
    """What there is, in timm's order.

    Attributes:
        models: Architectures, those of `resnest_timm` among them.
        weights: ARCHITECTURE.TAG of all that have pretrained weights.
        optimizers: For `--optimizer`.
    """

    models: list[str]
    weights: list[str]
    optimizers: list[str]

    def weights_of(self, architecture: str) -> list[str]:
        """ARCHITECTURE.TAG of one architecture."""
        return [name for name in self.weights if name.startswith(f"{architecture}.")]


def names() -> Names:
    """The names, from the cache where timm has not been imported anyway."""
    if "timm" in sys.modules:  # it knows what else was registered in this process
        return _ask()
    path, state = cache_file(), _state()
    known = _read(path, state)
    if known is None:
        known = _ask()
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next command some seconds
            _write(path, state, known)
    return known


def cache_file() -> Path:
    """Where this installation's names lie."""
    places = " ".join(str(_root(package)) for package, _ in _REGISTERING)
    key = hashlib.sha256(places.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(constants.HF_ASSETS_CACHE) / "finetune" / f"timm-names-{key}.json"


def _ask() -> Names:
    import timm  # with torch, seconds: only where the cache does not know
    import timm.optim

    import resnest_timm  # noqa: F401  # registers its models

    return Names(timm.list_models(), timm.list_pretrained(), timm.optim.list_optimizers())


def _root(package: str) -> Path:
    """The folder of a package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(found.origin).parent


def _state() -> str:
    """A hash of what the registering modules are: their names, sizes and times."""
    content = hashlib.sha256()
    for module in _modules():
        status = module.stat()
        content.update(f"{module.path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return content.hexdigest()


def _modules() -> Iterator[os.DirEntry[str]]:
    for package, folders in _REGISTERING:
        for folder in folders:
            with os.scandir(_root(package) / folder) as entries:
                yield from sorted((e for e in entries if e.name.endswith(".py")), key=lambda entry: entry.name)


def _read(path: Path, state: str) -> Names | None:
    """What was remembered of the same state; None where there is nothing, or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Names(**content["names"]) if content["state"] == state else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    lists: tuple[Any, ...] = () if found is None else (found.models, found.weights, found.optimizers)
    whole = all(isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in lists)
    return found if whole else None


def _write(path: Path, state: str, known: Names) -> None:
    """Appear whole, however many commands write at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", delete=False
    ) as stream:
        try:
            json.dump({"state": state, "names": asdict(known)}, stream)
            stream.close()
            os.replace(stream.name, path)
        except BaseException:
            os.unlink(stream.name)
            raise
