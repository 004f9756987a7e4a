"""What the Hub answered behind a client's error, and how long to wait for a busy one before another try."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError

TRIES = 4
"""Times that a busy Hub is asked in all."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most; where the Hub asks for more, the user decides."""
BUSY = (408, 429, 500, 502, 503, 504)
"""Statuses of a Hub that may answer differently in a while."""

TransportError: type[Exception] = HfHubHTTPError.__bases__[0]
"""The HTTP library's own errors: httpx with huggingface_hub 1, httpx2 with 2."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: clients wrap errors in others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def detach(error: BaseException, outer: BaseException | None) -> None:
    """Cut an error off from the one that was being handled when it came, which has led to nothing in it.

    Args:
        error: What a call raised.
        outer: What `sys.exception()` gave before the call.
    """
    for cause in causes(error):
        if outer is not None and cause.__context__ is outer:
            cause.__context__ = None


def answer(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's own answer behind an error; None where there was none."""
    return next((cause for cause in causes(error) if isinstance(cause, HfHubHTTPError)), None)


def status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error."""
    found = answer(error)
    return None if found is None else int(found.response.status_code)


def retry_after(error: BaseException | None) -> float | None:
    """How many seconds a busy Hub asks for, if it says so."""
    found = answer(error)
    value = "" if found is None else found.response.headers.get("retry-after", "").strip()
    return float(value) if value.isdigit() else None


def waiting_time(error: BaseException, number: int) -> float | None:
    """Seconds to wait before another try; None where the Hub is not busy, or asks for too long.

    Args:
        error: What the client raised.
        number: How often the call has been made.
    """
    if status(error) not in BUSY:
        return None
    asked = retry_after(error)
    if asked is None:
        return pause(number)
    return asked + 1 if asked <= LONGEST_WAIT else None


def pause(number: int) -> float:
    """Seconds before another try where nothing is asked for: 1, 2, 4."""
    return 2.0 ** (number - 1)
