"""Datasets with a loading script, which `datasets` no longer runs: the Hub's own conversion of them to parquet.

The Hub keeps it beside the dataset, under the revision `refs/convert/parquet`, as CONFIG/SPLIT/NNNN.parquet. The class
of `datasets` for such files asks another host than the Hub about them, so they are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RevisionNotFoundError

from finetune.console import log
from finetune.data import hub
from finetune.errors import DatasetError, listing, suggest

REVISION = "refs/convert/parquet"
_PARTIAL = "partial-"
_FILE = re.compile(r"[^/]+/[^/]+/\d+\.parquet")


@dataclass(frozen=True)
class Conversion:
    """Parquet files of a dataset.

    Attributes:
        config: The configuration that was chosen.
        commit: Of the conversion.
        files: Addresses that `datasets` opens, by split.
    """

    config: str
    commit: str
    files: dict[str, list[str]]


def has_script(error: BaseException | None) -> bool:
    """Whether `datasets` refused a dataset because of its loading script.

    Args:
        error: What it raised.
    """
    while error is not None:
        if "scripts are no longer supported" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_conversion(paths: Iterable[str]) -> bool:
    """Whether a commit is of a conversion, so that a run that was made from it is found again.

    Args:
        paths: Of all its files.
    """
    files = [path for path in paths if path != ".gitattributes"]
    return bool(files) and all(_FILE.fullmatch(path) for path in files)


def check_revision(repo: str, revision: str | None) -> None:
    """Whether the conversion is of the revision that was asked for.

    Raises:
        DatasetError: It is not: only the main branch is converted.
    """
    if revision not in (None, "main"):
        raise DatasetError(
            f"{_needs(repo)}; the Hub's conversion is of the main branch: leave out --revision {revision}, or convert "
            "it yourself (save_to_disk with datasets 3) and give --dataset the folder"
        )


def find(repo: str, config: str | None = None, commit: str | None = None) -> Conversion:
    """List the conversion of a dataset, and choose its configuration.

    Args:
        repo: OWNER/NAME.
        config: The configuration; needed where there are several.
        commit: Of the conversion; its newest when not given.

    Raises:
        DatasetError: There is no conversion, or not of what was asked for.
        Exception: As the client raises them.
    """
    try:
        info = hub.patiently(lambda: HfApi().dataset_info(repo, revision=commit or REVISION))
    except RevisionNotFoundError as error:
        raise DatasetError(
            f"{_needs(repo)}, and the Hub has no conversion of it ({REVISION}): look for a copy in parquet on "
            f"{constants.ENDPOINT}, or convert it yourself (save_to_disk with datasets 3) and give --dataset the folder"
        ) from error
    paths = sorted(sibling.rfilename for sibling in info.siblings or [] if sibling.rfilename.endswith(".parquet"))
    configs: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        if _FILE.fullmatch(path):
            name, split, _ = path.split("/")
            configs.setdefault(name, {}).setdefault(split, []).append(path)
    chosen = _choose(repo, configs, config)
    partial = [split.removeprefix(_PARTIAL) for split in configs[chosen] if split.startswith(_PARTIAL)]
    commit = info.sha or commit or REVISION
    log.info(f"{_needs(repo)}: reading the Hub's conversion ({REVISION} at {commit}, configuration {chosen})")
    if partial:
        log.info(f"warning: the conversion holds only the first part of {listing(partial)}, up to 5 GB of each split")
    files = {
        split.removeprefix(_PARTIAL): [f"hf://datasets/{repo}@{commit}/{path}" for path in of_split]
        for split, of_split in configs[chosen].items()
    }
    return Conversion(chosen, commit, files)


def _needs(repo: str) -> str:
    return f"{repo} needs a loading script, which `datasets` no longer runs"


def _choose(repo: str, configs: dict[str, dict[str, list[str]]], asked: str | None) -> str:
    if not configs:
        raise DatasetError(
            f"the Hub's conversion of {repo} ({REVISION}) holds no parquet files: look for a copy in parquet"
        )
    if asked is not None and asked not in configs:
        hint = suggest(asked, configs) or "."
        raise DatasetError(
            f"--dataset-config: {repo} has no configuration {asked!r}{hint} There are: {listing(configs)}"
        )
    if asked is None and len(configs) > 1:
        raise DatasetError(
            f"{repo} has {len(configs)} configurations ({listing(configs)}): pick one by --dataset-config"
        )
    return asked or next(iter(configs))
