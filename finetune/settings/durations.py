"""Durations as people write them."""

from __future__ import annotations

import re

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WORDS = re.compile("".join(rf"(?:(?P<{unit}>\d+){unit})?" for unit in _UNITS))
_CLOCK = re.compile(r"(?P<d>\d+):(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)")


def seconds(text: str) -> int:
    """Seconds of `1h30m`, `2d12h`, `90s`, or of Lightning's days:hours:minutes:seconds, `00:01:30:00`.

    Raises:
        ValueError: It is neither, or no time at all. A bare number is refused: its unit would have to be guessed.
    """
    found = _CLOCK.fullmatch(text.strip()) or _WORDS.fullmatch(text.strip())
    total = sum(int(found[unit] or 0) * length for unit, length in _UNITS.items()) if found else 0
    if total == 0:
        raise ValueError(f"expected a duration such as 1h30m, 45m, 90s or 00:01:30:00 (d:hh:mm:ss), got {text!r}")
    return total
