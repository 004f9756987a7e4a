"""Model cards from a run's folder; imports neither of the other packages."""

from cards.render import build

__all__ = ["build"]
