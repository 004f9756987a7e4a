"""A plan -> one commit on the Hub, or none: what is made for it is taken back when it fails."""

from __future__ import annotations

import time
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

from cards.hub import access, patience, remote
from cards.hub.access import PublishError, ask
from cards.hub.remote import Plan, Target

_EXISTS, _CONFLICT = 409, 412


def push(api: HfApi, target: Target, wanted: Plan, message: str) -> str:
    """Make one commit of a plan; where that fails, the repository is as it was before.

    Args:
        api: With a token.
        target: Where to publish.
        wanted: From :func:`cards.hub.remote.plan`; where somebody commits after it was made, nothing is written.
        message: The commit's first line.

    Returns:
        The commit's id; that of the main branch's last one, where a new branch has all of it already.

    Raises:
        PublishError: Nothing was published.
    """
    made, start = _make(api, target, wanted)
    try:
        parent = remote.head(api, target)
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
            ask(api.create_branch, doing, **remote.place(target), branch=target.revision, exist_ok=True)
        except BaseException:
            _unmake(api, target, made, start)
            raise
        made = made or "branch"
    return made, start


def _make_repository(api: HfApi, target: Target) -> str:
    """Make it; the commit that it begins with."""
    doing = f"make the repository {target.repo_id}"
    try:
        ask(api.create_repo, doing, **remote.place(target), private=target.private, space_sdk=target.space_sdk)
    except PublishError as error:
        if patience.status(error.__cause__) != _EXISTS:
            raise
        # Whose it is cannot be told: somebody's, or that of a try whose answer was lost. So it is not touched.
        raise PublishError(_conflict(target)) from error.__cause__
    info: Any = ask(api.repo_info, f"look at {target.repo_id}", **remote.place(target))
    return str(info.sha)


def _unmake(api: HfApi, target: Target, made: str | None, start: str | None) -> str:
    """Delete what :func:`_make` made, unless somebody has committed to it since; what is left, in words."""
    if made is None:
        return ""
    try:
        info: Any = ask(
            api.repo_info,
            f"look at {target.repo_id}",
            **remote.place(target),
            revision=target.revision if made == "branch" else None,
        )
        if info.sha != start:
            return ""
        if made == "repository":
            ask(api.delete_repo, "take the empty repository back", **remote.place(target), missing_ok=True)
        else:
            ask(api.delete_branch, "take the new branch back", **remote.place(target), branch=target.revision)
    except PublishError:
        return f"The {made} that was made for it is left without the model: {target.url}"
    return ""


def _commit(api: HfApi, target: Target, wanted: Plan, parent: str, message: str) -> str:
    """One commit on top of `parent`; repeated while the Hub is busy, but never made twice."""
    for number in range(1, patience.TRIES + 1):
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
            if patience.status(error) == _CONFLICT:
                raise PublishError(_conflict(target)) from error
            if wait is None or number == patience.TRIES:
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
        head = remote.head(api, target)
        return head if head not in (None, parent) and _holds(api, target, wanted, str(head)) else None
    except PublishError:
        return None


def _holds(api: HfApi, target: Target, wanted: Plan, commit: str) -> bool:
    there = remote.tree(api, target, commit)
    complete = all(path in there and remote.same(local, there[path]) for path, local in wanted.files.items())
    return complete and not set(wanted.deleted) & set(there)


def _conflict(target: Target) -> str:
    return (
        f"somebody has committed to {target.repo_id} in the meantime (branch {target.revision}): nothing was "
        f"published; look at {target.url} and publish again"
    )
