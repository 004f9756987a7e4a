"""Where pretrained weights come from, and the check that they are what was released."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from timm.models import PretrainedCfg, list_pretrained, resolve_pretrained_cfg
from timm.models._hub import check_cached_file, download_cached_file, get_cache_dir


class WeightsError(RuntimeError):
    """Pretrained weights do not exist, or are not what was released."""


def verified_overlay(
    architecture: str,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fetch weights that exist only at a URL, checked against the SHA-256 prefix in the file's name.

    timm loads URLs without a check of their hash; a local file it takes as it is. So the file is fetched and checked
    here, and handed on as a local one. Weights from the Hub, from a folder or given by the caller pass untouched.

    Args:
        architecture: Registered name of the model.
        pretrained_cfg: A tag, or a config in place of the registered one.
        overlay: Entries that replace those of the config.
        cache_dir: Where to keep the file; torch.hub's checkpoints when not given.

    Returns:
        `overlay`, with `file` added where one was fetched.

    Raises:
        WeightsError: Nothing was released for the architecture, or the file's hash is wrong.
    """
    overlay = dict(overlay or {})
    config = resolve_pretrained_cfg(architecture, pretrained_cfg, overlay)
    if config.source or config.state_dict or config.file or config.hf_hub_id:
        return overlay
    if not config.url:
        known = ", ".join(sorted({name.split(".")[0] for name in list_pretrained("resnest*")}))
        raise WeightsError(
            f"No weights were ever released for {architecture}: pass pretrained=False. Released: {known}"
        )
    url = config.url if isinstance(config.url, str) else config.url[0]
    return {**overlay, "file": _download(url, cache_dir)}


def _download(url: str, cache_dir: str | Path | None) -> str:
    if not check_cached_file(url, cache_dir=cache_dir):
        _discard_damaged(url, cache_dir)
    try:
        return str(download_cached_file(url, check_hash=True, progress=True, cache_dir=cache_dir))
    except RuntimeError as error:
        raise WeightsError(
            f"{url} does not have the SHA-256 that its name gives ({error}). It was not kept; try again, and if it "
            "stays so, do not use it"
        ) from error


def _discard_damaged(url: str, cache_dir: str | Path | None) -> None:
    """Remove a cached file that failed its check: timm would take it for the download."""
    path = Path(cache_dir or get_cache_dir()) / PurePosixPath(urlparse(url).path).name  # as timm names it
    path.unlink(missing_ok=True)
