"""What a repository on the Hub holds, compared with local files: what publishing would change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from cards.hub.access import PublishError, ask


@dataclass(frozen=True)
class Target:
    """Where to publish.

    Attributes:
        repo_id: OWNER/NAME.
        repo_type: `model`, `dataset` or `space`.
        revision: Branch; made from the main branch where it is missing.
        private: Visibility of a repository that is made; one that exists keeps its own.
        space_sdk: Of a Space that is made, for instance `gradio`.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str = constants.DEFAULT_REVISION
    private: bool = False
    space_sdk: str | None = None

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        prefix = constants.REPO_TYPES_URL_PREFIXES.get(self.repo_type, "")
        branch = "" if self.revision == constants.DEFAULT_REVISION else f"/tree/{self.revision}"
        return f"{constants.ENDPOINT}/{prefix}{self.repo_id}{branch}"


@dataclass(frozen=True)
class Plan:
    """What publishing would change.

    Attributes:
        files: Local file by its path in the repository.
        new: Paths that the repository does not have.
        changed: Paths whose content differs.
        deleted: Paths that an earlier publication left there and this one does not have.
        kept: Other paths of the repository, which stay as they are.
        exists: Whether there is such a repository.
        branch_exists: Whether it has the branch.
        private: Its visibility; None where the Hub does not say, or there is none.
        parent: Commit that the plan was made from; None where there is no such branch yet.
    """

    files: Mapping[str, Path]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    exists: bool
    branch_exists: bool
    private: bool | None
    parent: str | None

    @property
    def empty(self) -> bool:
        """Whether the branch has all of it already."""
        return self.branch_exists and not self.changes

    @property
    def changes(self) -> int:
        """How many files a commit would add, change or delete."""
        return len(self.new) + len(self.changed) + len(self.deleted)


Stale = Callable[[set[str]], set[str]]
"""Paths of the repository -> those that earlier publications made."""


def plan(api: HfApi, target: Target, files: Mapping[str, Path], stale: Stale = lambda paths: set()) -> Plan:
    """Compare local files with a repository, by their hashes; nothing is written.

    Args:
        api: With a token.
        target: Where to publish.
        files: Local file by its path in the repository.
        stale: Which paths of the repository publishing may delete, when they are not among `files`.

    Raises:
        PublishError: The Hub cannot be asked.
    """
    doing = f"look at {target.repo_id}"
    try:
        main: Any = ask(api.repo_info, doing, **place(target))
    except PublishError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError) or isinstance(error.__cause__, GatedRepoError):
            raise
        return Plan(files, tuple(sorted(files)), (), (), (), False, False, None, None)
    last = head(api, target)
    there = tree(api, target, last or main.sha)
    gone = stale(set(there)) & (set(there) - set(files))
    changed = tuple(sorted(path for path in files if path in there and not same(files[path], there[path])))
    new, kept = set(files) - set(there), set(there) - set(files) - gone
    return Plan(
        files=files,
        new=tuple(sorted(new)),
        changed=changed,
        deleted=tuple(sorted(gone)),
        kept=tuple(sorted(kept)),
        exists=True,
        branch_exists=last is not None,
        private=main.private,
        parent=last or main.sha,
    )


def place(target: Target) -> dict[str, Any]:
    """The arguments of the client's calls that name a repository."""
    return {"repo_id": target.repo_id, "repo_type": target.repo_type}


def head(api: HfApi, target: Target) -> str | None:
    """The branch's last commit; None where there is no such branch."""
    doing = f"look at the branch {target.revision!r} of {target.repo_id}"
    try:
        info: Any = ask(api.repo_info, doing, **place(target), revision=target.revision)
    except PublishError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            return None
        raise
    return str(info.sha)


def tree(api: HfApi, target: Target, commit: str) -> dict[str, Any]:
    """Files of a commit by path, as the client describes them."""

    def read() -> list[Any]:
        entries = api.list_repo_tree(target.repo_id, recursive=True, revision=commit, repo_type=target.repo_type)
        return list(entries)

    return {entry.path: entry for entry in ask(read, f"list the files of {target.repo_id}") if hasattr(entry, "size")}


def same(local: Path, entry: Any) -> bool:
    """Whether a file is the one on the Hub: by SHA-256 in large file storage, by git's blob id otherwise."""
    size = local.stat().st_size
    if size != entry.size:
        return False
    with local.open("rb") as stream:
        if entry.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == str(entry.lfs.sha256)
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest() == str(entry.blob_id)
