"""What can be wrong with what a card or a certificate is made from."""

from __future__ import annotations


class CardError(ValueError):
    """A run's folder does not hold what a card needs."""

    exit_code = 2
