"""Requests as they arrive, and failures to play back."""

import re
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True)
class Request:
    """One request as it arrived: header names are lower case, the path keeps its query."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """A failure to play back; ``left`` counts down, and may be set to 0 to end it early."""

    pattern: re.Pattern[str]
    method: str | None
    left: int
    status: int
    headers: dict[str, str]
    cut_after: int | None = None
    corrupt: bool = False
    after: bool = False

    def takes(self, request: Request) -> bool:
        # A HEAD answer has no body to cut or spoil, so it must not use up what is meant for the GET after it.
        if self.left < 1 or ((self.cut_after is not None or self.corrupt) and request.method == "HEAD"):
            return False
        return self.method in (None, request.method) and self.pattern.search(unquote(request.path)) is not None
