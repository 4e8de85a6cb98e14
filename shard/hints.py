"""Hints: the known names that a mistyped one may mean."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 100
"""Characters of a name that are compared: the time grows with their number, and a client may send millions."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like another one; None where none is near.

    Example:
        >>> closest("yaer", ["genre", "year"]), closest("x", ["year"])
        ('year', None)
    """
    return next(iter(get_close_matches(name[:LONGEST], list(known), 1)), None)
