"""Model cards and certificates from a run's folder (`result.json`, `model/`); imports neither of the other packages."""

from cards.data import CardError
from cards.render import build, render
from cards.verify import verify

__all__ = ["CardError", "build", "render", "verify"]
