"""Text that others have written, as it may be printed."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""A text without what a terminal would obey.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    return "".join(_shown(sign) for sign in text)


def _shown(sign: str) -> str:
    obeyed = not sign.isprintable() and unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")
    return sign.encode("unicode_escape").decode() if obeyed else sign
