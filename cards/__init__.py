"""Model cards, certificates and publishing from a run's folder; imports neither of the other packages."""

from cards.certificate.verify import verify
from cards.errors import CardError
from cards.hub.access import PublishError
from cards.hub.publish import check_publishing, publish
from cards.hub.redaction import guard, redact
from cards.page.render import build, is_current, render

__all__ = [
    "CardError",
    "PublishError",
    "build",
    "check_publishing",
    "guard",
    "is_current",
    "publish",
    "redact",
    "render",
    "verify",
]
