"""Whole numbers as strangers write them: a text in, a number or None out."""

from __future__ import annotations

MOST_DIGITS = 20
"""Of a number; more than any that is allowed anywhere here, and as quickly read."""


def whole(text: str, least: int, most: int) -> int | None:
    """The number that ``text`` is in decimal digits; None if that is not one of those allowed."""
    if len(text) > MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if least <= number <= most else None
