"""Keeps tokens out of everything that is printed, logged or published."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_LOOKS_LIKE_A_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b")
_SECRETS = re.compile(
    r"\b(?:"
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{60,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,}"  # Amazon, Google
    r"|sk-(?:[a-z]+-)*[A-Za-z0-9_-]{32,}|xox[abeprs]-[\w-]{10,}|pypi-AgEI[\w-]{20,}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"  # a JSON web token
    r")"
    r"|-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"
)
"""Secrets of other services whose shape is known; only publishing looks for them."""
_USER_INFORMATION = re.compile(r"(?<=://)[^/\s@'\"]+@")
_LEAST = 6  # characters: a shorter word would be masked where it is part of others


def secrets() -> list[str]:
    """The tokens that this process can know: of the environment, the token file, and a password in HF_ENDPOINT."""
    from huggingface_hub import constants

    found = [os.environ.get(name, "").strip() for name in VARIABLES]
    try:
        found.append(Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        pass
    address = urlsplit(constants.ENDPOINT)
    found += [part for part in (address.password, unquote(address.password or "")) if part]
    return [secret for secret in found if len(secret) >= _LEAST]


def redact(text: object) -> str:
    """Text without tokens, whatever looks like one, and names and passwords in addresses."""
    clean = str(text)
    for secret in secrets():
        clean = clean.replace(secret, MASK)
    return _USER_INFORMATION.sub(f"{MASK}@", _LOOKS_LIKE_A_TOKEN.sub(MASK, clean))


def leaks(content: bytes) -> bool:
    """Whether a file holds a token of this machine, or a word or key that looks like one, of whatever service."""
    if any(secret.encode() in content for secret in secrets()):
        return True
    text = content.decode("utf-8", errors="replace")
    return any(shape.search(text) for shape in (_LOOKS_LIKE_A_TOKEN, _SECRETS))


def guard() -> None:
    """Redact what this process logs and the traceback it may end with; for command lines, not for libraries."""
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)
    sys.excepthook = _print_traceback


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a wrong format; logging says so itself
        return record
    clean = redact(message)
    if clean != message:
        record.msg, record.args = clean, ()
    return record


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
