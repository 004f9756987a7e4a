"""What the Hub's clients leave to their callers: files that arrived damaged, a busy Hub, and errors in words.

huggingface_hub compares the size of a download with what was announced, not its content; it tries downloads again, but
not questions about a repository; and it says "check your connection" of many things that are none of the connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, get_session, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from cards.hub import patience
from finetune.console import log

T = TypeVar("T")

_PATIENCE = 10.0  # seconds in which a connection has to be made
_UNREACHABLE: list[bool] = []  # not empty where `reachable` has made the clients offline
_SKEW = 5.0  # seconds by which the clocks of a file system and of this machine may differ


class DamagedError(OSError):
    """Files arrived with another content than the Hub announced, again and again; they were not kept."""


def explain(error: BaseException, url: str) -> str | None:
    """What the Hub has against a download, and what to do; None where the Hub is not what failed.

    Args:
        error: What a client raised.
        url: The page of what was wanted.
    """
    if isinstance(error, DamagedError):
        return (
            f"{error}, twice, so that it was not kept: try again, and if it stays so, look for a proxy or mirror "
            f"between here and {constants.ENDPOINT}"
        )
    code = patience.status(error)
    if code is None:
        broke = next((cause for cause in patience.causes(error) if isinstance(cause, patience.TransportError)), None)
        if broke is None or type(broke).__name__.startswith("Connect") or _offline(error):
            return None  # there is no network, or none is wanted, which callers have more to say about
        return (
            f"the connection to {constants.ENDPOINT} broke again and again ({type(broke).__name__}): try again later; "
            "whole files that have arrived are kept"
        )
    if code == 401:
        return f"{constants.ENDPOINT} asks for a valid token (401): `hf auth login`, or set HF_TOKEN; see {url}"
    if code == 403:
        return f"the token may not read it (403): ask for access at {url}, or log in as somebody else (`hf auth login`)"
    if code == 404:
        return f"a file is missing on the Hub (404): see {url}; it may be changing, so try again or another revision"
    if code == 429:
        asked = patience.retry_after(error)
        wait = f"in {asked:.0f} s" if asked else "in a few minutes"
        return f"too many requests (429): try again {wait}; with a token (`hf auth login`) more are allowed"
    if code in patience.BUSY:
        return f"{constants.ENDPOINT} is out of order for now ({code}): try again later; what has arrived is kept"
    return f"{constants.ENDPOINT} refused it ({code}): see {url}"


def patiently(call: Callable[[], T]) -> T:
    """Make a call; where the Hub is too busy for a question about a repository, ask again, a few times.

    Downloads are left to the client, which tries them again itself.
    """
    for number in range(1, patience.TRIES):
        try:
            return call()
        except Exception as error:
            answer, wait = patience.answer(error), patience.waiting_time(error, number)
            if answer is None or wait is None or "/api/" not in str(answer.response.request.url):
                raise
            log.info(f"{constants.ENDPOINT} is busy ({answer.response.status_code}): trying again in {wait:.0f} s")
        time.sleep(wait)
    return call()


def reachable() -> bool:
    """Whether the Hub answers at all, whatever it says.

    Where it does not, its clients read their cache at once, instead of trying again for half a minute at each file;
    the next call asks again.
    """
    if constants.HF_HUB_OFFLINE and not _UNREACHABLE:
        return False
    _go_offline(False)
    for wait in (1.0, 0.0):
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        except patience.TransportError:
            time.sleep(wait)
        else:
            return True
    log.info(f"no connection to {constants.ENDPOINT}: what is in the local cache is used")
    _go_offline(True)
    return False


def _go_offline(wanted: bool) -> None:
    """Tell the clients in this process, and those in processes that it starts; takes back only what was done here."""
    if not wanted and not _UNREACHABLE:
        return
    _UNREACHABLE[:] = [True] if wanted else []
    constants.HF_HUB_OFFLINE = wanted
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = wanted
    os.environ["HF_HUB_OFFLINE"] = "1" if wanted else "0"


def beside(repo: str, names: Sequence[str], revision: str | None) -> Path | None:
    """The first file of a dataset's repository that is called so; None where there is none, or none can be had."""
    try:
        there = set(patiently(lambda: HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)))
    except Exception:  # no connection, offline mode, a server's fault: what is cached may do
        there = set(names)
    for name in names:
        if name in there:
            with contextlib.suppress(Exception):
                return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
    return None


def fetch(repo: str, filename: str, revision: str | None = None) -> Path | None:
    """Bring a file of a model into the cache, and compare it with the hash that the Hub names it by.

    Args:
        repo: OWNER/NAME.
        filename: Its path there.
        revision: Branch, tag or commit.

    Returns:
        Its path in the cache; None where the repository has no such file.

    Raises:
        DamagedError: It arrived damaged twice.
        Exception: As the client raises them.
    """
    for again in (True, False):
        try:
            path = Path(hf_hub_download(repo, filename, revision=revision))
        except LocalEntryNotFoundError:  # the client's word for any other trouble
            raise
        except EntryNotFoundError:
            return None
        blob = path.resolve()
        if _is_whole(blob):
            return path
        blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if again:
            log.info(f"{filename} of {repo} arrived damaged: fetching it again")
    raise DamagedError(f"{filename} does not have the hash that the Hub names")


def read_whole(repo: str, read: Callable[[], T], derived: Callable[[T], Iterator[Path]]) -> T:
    """Read a dataset of the Hub, and make sure that what was fetched for it is whole.

    Args:
        repo: OWNER/NAME.
        read: Fetches what is not in the cache, and reads it.
        derived: Folders that were made from the files, to be deleted when one of these was damaged.

    Raises:
        DamagedError: Files arrived damaged twice.
        Exception: Of `read`, when all that arrived is whole.
    """
    broken: list[str] = []
    for again in (True, False):
        since = time.time() - _SKEW
        try:
            result = patiently(read)
        except Exception:
            broken = discard_damaged(repo, since)
            if not broken:
                raise
        else:
            broken = discard_damaged(repo, since)
            if not broken:
                return result
            for folder in set(derived(result)):
                shutil.rmtree(folder, ignore_errors=True)
            del result
        if again:
            log.info(f"{', '.join(broken)} of {repo} arrived damaged: fetching again")
    raise DamagedError(f"{', '.join(broken)} does not have the hash that the Hub names")


def discard_damaged(repo: str, since: float) -> list[str]:
    """Delete files of a dataset from the cache that were fetched lately and are not what their hash says.

    Args:
        repo: OWNER/NAME.
        since: Seconds since 1970: older files are not read again.

    Returns:
        Their names in the repository.
    """
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
    blobs = [path for path in folder.glob("blobs/*") if path.is_file() and path.stat().st_mtime >= since]
    broken = {blob.resolve() for blob in blobs if not _is_whole(blob)}
    names = []
    for link in [path for path in folder.glob("snapshots/*/**/*") if path.is_symlink()] if broken else []:
        if link.resolve() in broken:
            names.append("/".join(link.relative_to(folder).parts[2:]))
            link.unlink()
    for blob in broken:
        blob.unlink(missing_ok=True)
    return sorted(set(names)) or sorted(blob.name[:12] for blob in broken)


def _is_whole(blob: Path) -> bool:
    """Whether a cached file has the content that it is named by: SHA-256 of large files, git's blob id of others.

    A cache without links (some file systems) names files otherwise; those cannot be checked.
    """
    name = blob.name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        return True
    if len(name) == 64:
        digest: Any = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest()) == name


def _offline(error: BaseException) -> bool:
    return any(isinstance(cause, OfflineModeIsEnabled) for cause in patience.causes(error))
