"""The colours of figures and of the demo's page, and how both write shares; imports no matplotlib.

Colours are those of Okabe and Ito, which people with any colour vision tell apart (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"


def percent(share: float, digits: int = 0) -> str:
    """`97 %`; never 100 % or 0 % of what is only nearly that."""
    text = f"{100 * share:.{digits}f}"
    nearly_all, nearly_nothing = share < 1 and float(text) == 100, share > 0 and float(text) == 0
    limit = 10**-digits
    if nearly_all:
        return f">{100 - limit:.{digits}f} %"
    return f"<{limit:.{digits}f} %" if nearly_nothing else f"{text} %"
