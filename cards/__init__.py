"""Model cards, certificates and publishing from a run's folder; imports neither of the other packages."""

from cards.access import PublishError
from cards.data import CardError
from cards.publish import check_publishing, publish
from cards.redaction import guard, redact
from cards.render import build, render
from cards.verify import verify

__all__ = ["CardError", "PublishError", "build", "check_publishing", "guard", "publish", "redact", "render", "verify"]
