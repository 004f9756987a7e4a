"""Model cards and certificates from a run's folder (`result.json`, `model/`); imports neither of the other packages."""

from cards.errors import CardError
from cards.render import build, is_current, render
from cards.verify import verify

__all__ = ["CardError", "build", "is_current", "render", "verify"]
