"""A folder's files -> one commit on the Hub, or none: what would change, the commit, and the way back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from cards import access
from cards.access import PublishError, ask

_EXISTS, _CONFLICT = 409, 412


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
        main: Any = ask(api.repo_info, doing, **_place(target))
    except PublishError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError) or isinstance(error.__cause__, GatedRepoError):
            raise
        return Plan(files, tuple(sorted(files)), (), (), (), False, False, None, None)
    head = _head(api, target)
    remote = _tree(api, target, head or main.sha)
    gone = stale(set(remote)) & (set(remote) - set(files))
    changed = tuple(sorted(path for path in files if path in remote and not _same(files[path], remote[path])))
    new, kept = set(files) - set(remote), set(remote) - set(files) - gone
    return Plan(
        files=files,
        new=tuple(sorted(new)),
        changed=changed,
        deleted=tuple(sorted(gone)),
        kept=tuple(sorted(kept)),
        exists=True,
        branch_exists=head is not None,
        private=main.private,
        parent=head or main.sha,
    )


def push(api: HfApi, target: Target, wanted: Plan, message: str) -> str:
    """Make one commit of a plan; where that fails, the repository is as it was before.

    Args:
        api: With a token.
        target: Where to publish.
        wanted: From :func:`plan`; where somebody commits after it was made, nothing is written.
        message: The commit's first line.

    Returns:
        The commit's id; that of the main branch's last one, where a new branch has all of it already.

    Raises:
        PublishError: Nothing was published.
    """
    made, start = _make(api, target, wanted)
    try:
        parent = _head(api, target)
        if parent is None or (parent != wanted.parent if wanted.exists else parent != start):
            raise PublishError(_conflict(target))
        return _commit(api, target, wanted, parent, message) if wanted.changes else parent
    except BaseException as error:
        left = _unmake(api, target, made, start)
        if left and isinstance(error, PublishError):
            raise PublishError(f"{error}. {left}") from error.__cause__
        raise


def _make(api: HfApi, target: Target, wanted: Plan) -> tuple[str | None, str | None]:
    """Make repository and branch where they are missing.

    Returns:
        Which of them was made, and the commit that it begins with.
    """
    made, start = None, wanted.parent
    if not wanted.exists:
        start, made = _make_repository(api, target), "repository"
    if not wanted.branch_exists and target.revision != constants.DEFAULT_REVISION:
        try:
            doing = f"make the branch {target.revision!r} of {target.repo_id}"
            ask(api.create_branch, doing, **_place(target), branch=target.revision, exist_ok=True)
        except BaseException:
            _unmake(api, target, made, start)
            raise
        made = made or "branch"
    return made, start


def _make_repository(api: HfApi, target: Target) -> str:
    """Make it; the commit that it begins with."""
    doing = f"make the repository {target.repo_id}"
    try:
        ask(api.create_repo, doing, **_place(target), private=target.private, space_sdk=target.space_sdk)
    except PublishError as error:
        if access.status(error.__cause__) != _EXISTS:
            raise
        # Whose it is cannot be told: somebody's, or that of a try whose answer was lost. So it is not touched.
        raise PublishError(_conflict(target)) from error.__cause__
    info: Any = ask(api.repo_info, f"look at {target.repo_id}", **_place(target))
    return str(info.sha)


def _unmake(api: HfApi, target: Target, made: str | None, start: str | None) -> str:
    """Delete what :func:`_make` made, unless somebody has committed to it since; what is left, in words."""
    if made is None:
        return ""
    try:
        info: Any = ask(
            api.repo_info,
            f"look at {target.repo_id}",
            **_place(target),
            revision=target.revision if made == "branch" else None,
        )
        if info.sha != start:
            return ""
        if made == "repository":
            ask(api.delete_repo, "take the empty repository back", **_place(target), missing_ok=True)
        else:
            ask(api.delete_branch, "take the new branch back", **_place(target), branch=target.revision)
    except PublishError:
        return f"The {made} that was made for it is left without the model: {target.url}"
    return ""


def _place(target: Target) -> dict[str, Any]:
    return {"repo_id": target.repo_id, "repo_type": target.repo_type}


def _commit(api: HfApi, target: Target, wanted: Plan, parent: str, message: str) -> str:
    """One commit on top of `parent`; repeated while the Hub is busy, but never made twice."""
    for number in range(1, access.TRIES + 1):
        operations: list[Any] = [CommitOperationDelete(path, is_folder=False) for path in wanted.deleted]
        operations += [CommitOperationAdd(path, str(wanted.files[path])) for path in (*wanted.new, *wanted.changed)]
        try:
            info: Any = api.create_commit(
                target.repo_id,
                operations,
                commit_message=message,
                repo_type=target.repo_type,
                revision=target.revision,
                parent_commit=parent,
            )
        except Exception as error:
            # The answer may be what was lost, not the commit.
            done = _done(api, target, wanted, parent)
            if done is not None:
                return done
            # Uploads have been tried again by the client, which does not do so with the commit itself.
            wait = access.waiting_time(error, number) if "/commit/" in access.address(error) else None
            if access.status(error) == _CONFLICT:
                raise PublishError(_conflict(target)) from error
            if wait is None or number == access.TRIES:
                raise access.explained(error, f"publish to {target.repo_id}") from error
            time.sleep(wait)
        else:
            commit = str(info.oid)
            if commit == parent or not _holds(api, target, wanted, commit):
                raise PublishError(
                    f"{target.url} does not hold all files after the commit {commit[:12]}: is there a .gitignore in "
                    "the repository? Delete it and publish again"
                )
            return commit
    raise AssertionError  # the last try returns or raises


def _done(api: HfApi, target: Target, wanted: Plan, parent: str) -> str | None:
    """The branch's head, where it is a commit that holds everything."""
    try:
        head = _head(api, target)
        return head if head not in (None, parent) and _holds(api, target, wanted, str(head)) else None
    except PublishError:
        return None


def _holds(api: HfApi, target: Target, wanted: Plan, commit: str) -> bool:
    remote = _tree(api, target, commit)
    complete = all(path in remote and _same(local, remote[path]) for path, local in wanted.files.items())
    return complete and not set(wanted.deleted) & set(remote)


def _head(api: HfApi, target: Target) -> str | None:
    """The branch's last commit; None where there is no such branch."""
    doing = f"look at the branch {target.revision!r} of {target.repo_id}"
    try:
        info: Any = ask(api.repo_info, doing, **_place(target), revision=target.revision)
    except PublishError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            return None
        raise
    return str(info.sha)


def _tree(api: HfApi, target: Target, commit: str) -> dict[str, Any]:
    """Files of a commit by path."""

    def read() -> list[Any]:
        entries = api.list_repo_tree(target.repo_id, recursive=True, revision=commit, repo_type=target.repo_type)
        return list(entries)

    return {entry.path: entry for entry in ask(read, f"list the files of {target.repo_id}") if hasattr(entry, "size")}


def _same(local: Path, remote: Any) -> bool:
    """Whether a file is the one on the Hub: by SHA-256 in large file storage, by git's blob id otherwise."""
    size = local.stat().st_size
    if size != remote.size:
        return False
    with local.open("rb") as stream:
        if remote.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == str(remote.lfs.sha256)
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest() == str(remote.blob_id)


def _conflict(target: Target) -> str:
    return (
        f"somebody has committed to {target.repo_id} in the meantime (branch {target.revision}): nothing was "
        f"published; look at {target.url} and publish again"
    )
