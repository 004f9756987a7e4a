"""The Hub as publishing sees it: whose token it is, what it may do, and what went wrong, in words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, by its documentation

from cards.errors import CardError
from cards.hub import patience
from cards.hub.redaction import redact

T = TypeVar("T")

_WRITING_ROLES = ("admin", "write", "contributor")
_SCOPES = ("repo.write", "repo.content.write")


class PublishError(CardError):
    """Nothing was published; the message says why and what to do."""


def check_name(repo_id: str) -> None:
    """Raise unless the Hub could have a repository of this name.

    Raises:
        PublishError: It is not OWNER/NAME.
    """
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise PublishError(f"expected a repository as OWNER/NAME, got {redact(repr(repo_id))}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = redact(error).partition(": '")[0]
        raise PublishError(f"{redact(repr(repo_id))} is no name of a repository: {reason}") from error


def check_permission(repo_id: str, repo_type: str = "model") -> HfApi:
    """Find out whether there is a token, and whether it may write to a repository, which need not exist.

    Where the Hub says too little of a token, publishing itself finds out.

    Args:
        repo_id: OWNER/NAME.
        repo_type: `model`, `dataset` or `space`.

    Returns:
        A client that uses the token.

    Raises:
        PublishError: Name, token or permission is missing, or the Hub cannot be asked.
    """
    check_name(repo_id)
    if urlsplit(constants.ENDPOINT).username is not None:
        raise PublishError(
            f"HF_ENDPOINT {redact(constants.ENDPOINT)} has a user name in it, which the client sends instead of your "
            "token: give the address alone, and the token by HF_TOKEN or `hf auth login`"
        )
    token = get_token()
    if token is None:
        raise PublishError(
            f"no token: publishing to {repo_id} needs one that may write. Make it at {constants.ENDPOINT}/settings/"
            "tokens, then `hf auth login` or set HF_TOKEN"
        )
    api = HfApi(token=token)
    _check_account(ask(api.whoami, f"ask {constants.ENDPOINT} whose token this is"), repo_id)
    return api


def reader(repo_id: str) -> HfApi:
    """A client to look at a repository with: of the token where there is one, else of nobody.

    Args:
        repo_id: OWNER/NAME.

    Raises:
        PublishError: There can be no such name; with a token also what `check_permission` raises.
    """
    if get_token() is not None:
        return check_permission(repo_id)
    check_name(repo_id)
    return HfApi(token=False)


def _check_account(account: Mapping[str, Any], repo_id: str) -> None:
    """Compare what whoami says with what is needed; keys that this version does not know decide nothing."""
    owner, name = repo_id.split("/")[0], str(account.get("name"))
    organisations = {str(org.get("name")): org.get("roleInOrg") for org in account.get("orgs") or []}
    if owner != name and owner not in organisations:
        others = f" and of {', '.join(sorted(organisations))}" if organisations else ""
        raise PublishError(
            f"the token is that of {name}{others}, which cannot publish to {owner}/: give --repo-id {name}/"
            f"{repo_id.split('/')[1]}, or a token of {owner} (HF_TOKEN or `hf auth login`)"
        )
    role = organisations.get(owner)
    if role is not None and role not in _WRITING_ROLES:
        raise PublishError(
            f"{name} has the role {role!r} in {owner}: publishing there needs {' or '.join(_WRITING_ROLES)}; ask an "
            f"administrator of {owner}"
        )
    token = (account.get("auth") or {}).get("accessToken") or {}
    advice = f"make one that may write at {constants.ENDPOINT}/settings/tokens, then `hf auth login` or set HF_TOKEN"
    if token.get("role") == "read":
        raise PublishError(f"the token of {name} may only read: {advice}")
    scopes = token.get("fineGrained") or {}
    if token.get("role") == "fineGrained" and scopes.get("scoped") is not None and not _may_write(scopes, repo_id):
        raise PublishError(f"the fine-grained token of {name} may not write to {repo_id}: {advice}")


def _may_write(scopes: Mapping[str, Any], repo_id: str) -> bool:
    """Whether a fine-grained token's scopes cover the repository, or its owner's repositories."""
    names = (repo_id, repo_id.split("/")[0])
    granted = set(scopes.get("global") or ())
    for scope in scopes["scoped"]:
        if (scope.get("entity") or {}).get("name") in names:
            granted |= set(scope.get("permissions") or ())
    return bool(granted & set(_SCOPES))


def ask(call: Callable[..., T], doing: str, *args: Any, **kwargs: Any) -> T:
    """Make a call of the Hub's client; a busy Hub is asked again, a few times.

    Args:
        call: A method of `HfApi` that may be repeated.
        doing: What for, in words that follow "cannot".
        args: Its arguments.
        kwargs: Its arguments.

    Raises:
        PublishError: It failed. `__cause__` is the client's own error.
    """
    outer = sys.exception()
    for number in range(1, patience.TRIES + 1):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            patience.detach(error, outer)
            wait = waiting_time(error, number)
            if wait is None or number == patience.TRIES:
                raise explained(error, doing) from error
            time.sleep(wait)
    raise AssertionError  # the last try returns or raises


def waiting_time(error: BaseException, number: int) -> float | None:
    """Seconds to wait before another try, of a busy Hub or a broken connection; None where another try is useless.

    Args:
        error: What the client raised.
        number: How often the call has been made.
    """
    if patience.status(error) is None:
        return patience.pause(number) if _is_network(error) else None
    return patience.waiting_time(error, number)


def address(error: BaseException) -> str:
    """The address that a client's error is about; empty where it does not say."""
    if isinstance(error, HfHubHTTPError):
        return str(error.response.request.url)
    try:
        return str(error.request.url)  # type: ignore[attr-defined]  # of the HTTP library's errors, where it is known
    except (AttributeError, RuntimeError):
        return ""


def explained(error: BaseException, doing: str) -> PublishError:
    """A client's error in our words."""
    if isinstance(error, PublishError):
        return error
    where, code = redact(constants.ENDPOINT), patience.status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return PublishError(f"cannot {doing}: HF_HUB_OFFLINE is set; unset it to publish")
    said = _said(error)
    if code == 401:
        source = "of HF_TOKEN" if os.environ.get("HF_TOKEN") else "that is stored"
        remedy = (
            f"the token {source} is not valid (401): make a new one at {where}/settings/tokens, then `hf auth login`"
        )
    elif code == 403:
        remedy = f"the token may not do that (403{said}): take one that may write, or ask the owner for the permission"
    elif code == 429:
        wait = patience.retry_after(error)
        remedy = f"too many requests (429): try again in {f'{wait:.0f} s' if wait else 'a few minutes'}"
    elif code in patience.BUSY:
        remedy = f"{where} is out of order for now ({code}{said}): try again later"
    elif code is not None:
        remedy = f"{where} refused it ({code}{said})"
    elif _is_network(error):
        remedy = f"no connection to {where} ({type(_root(error)).__name__}): check the network, or HF_ENDPOINT"
    else:
        remedy = f"{type(_root(error)).__name__}: {' '.join(redact(_root(error)).split())[:300]}"
    return PublishError(f"cannot {doing}: {remedy}")


def _is_network(error: BaseException) -> bool:
    root = _root(error)
    if isinstance(root, OfflineModeIsEnabled) or type(root).__name__ == "UnsupportedProtocol":
        return False  # another try would change nothing
    return isinstance(root, patience.TransportError | ConnectionError | TimeoutError)


def _root(error: BaseException) -> BaseException:
    """The first cause, but of the HTTP library's own wrapping of a socket's error."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _said(error: BaseException | None) -> str:
    """What the Hub itself said, after a comma."""
    found = patience.answer(error)
    words = "" if found is None else " ".join(redact(found.server_message or "").split())[:200]
    return f", {words}" if words else ""
