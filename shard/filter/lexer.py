"""Splits a filter text into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from silverray.shard.api import FilterError
from silverray.shard.filter.schema import KEYWORDS

MAX_BYTES = 16 * 1024
"""Longest filter text, in bytes of UTF-8."""

TokenKind = Literal["name", "keyword", "text", "int", "float", "symbol", "end"]

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SYMBOL = re.compile(r"!=|<=|>=|[=<>(),]")
_PLAIN = re.compile(r"[^\\\"'\x00-\x1f]*")
_UNICODE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_ESCAPES = {
    '"': '"',
    "'": "'",
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_HINTS = {
    "==": "use `=`",
    "<>": "use `!=`",
    "!": "use `not` or `!=`",
    "&&": "use `and`",
    "||": "use `or`",
    "&": "use `and`",
    "|": "use `or`",
    "[": "write lists in ( )",
    "{": "write lists in ( )",
    "+": "write numbers without +",
    ".": "write a digit before the point",
    "“": "use straight quotes, \" or '",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a filter.

    Attributes:
        kind: what it is.
        text: as written; a keyword in lower case.
        position: where it starts, in characters from 0.
        value: what a "text", "int" or "float" stands for.
    """

    kind: TokenKind
    text: str
    position: int
    value: str | int | float | None = None


def tokenize(text: str) -> list[Token]:
    """Split a filter text; the last token is the "end".

    Raises:
        FilterError: the text is too long, or holds something that is no token.
    """
    _check_size(text)
    tokens, position = [], _skip_space(text, 0)
    while position < len(text):
        token, end = _token(text, position)
        tokens.append(token)
        position = _skip_space(text, end)
    return [*tokens, Token("end", "end of filter", len(text))]


def _check_size(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise FilterError("half of a surrogate pair is no character", error.start) from None
    if size > MAX_BYTES:
        position = len(text.encode()[:MAX_BYTES].decode(errors="ignore"))
        raise FilterError(f"the filter has {size:,} bytes, the limit is {MAX_BYTES:,}", position)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _token(text: str, position: int) -> tuple[Token, int]:
    if match := _WORD.match(text, position):
        word = match.group()
        if word.lower() in KEYWORDS:
            return Token("keyword", word.lower(), position), match.end()
        return Token("name", word, position), match.end()
    if match := _NUMBER.match(text, position):
        return _number(text, match), match.end()
    if text[position] in "\"'":
        value, end = _text(text, position)
        return Token("text", text[position:end], position, value), end
    pair = text[position : position + 2]
    match = _SYMBOL.match(text, position)
    if match is None or pair in _HINTS:
        hint = _HINTS.get(pair, _HINTS.get(text[position]))
        raise FilterError(f"unexpected {pair if pair in _HINTS else text[position]!r}", position, hint=hint)
    return Token("symbol", match.group(), position), match.end()


def _number(text: str, match: re.Match[str]) -> Token:
    digits, start = match.group(), match.start()
    following = text[match.end() : match.end() + 1]
    if following and (following.isalnum() or following in "._"):
        raise FilterError(f"unexpected character {following!r} in a number", match.end())
    if match.group(1) is None and match.group(2) is None:
        # int() refuses thousands of digits, zeros included; int64 has at most 19.
        significant = digits.lstrip("-0") or "0"
        number = int(significant[:20]) * (-1 if digits[0] == "-" else 1)
        if not -(2**63) <= number < 2**63:
            raise FilterError("the integer does not fit in 64 bits", start)
        return Token("int", digits, start, number)
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise FilterError("the number is too large", start)
    return Token("float", digits, start, value)


def _text(text: str, start: int) -> tuple[str, int]:
    quote, position, pieces = text[start], start + 1, []
    while True:
        match = _PLAIN.match(text, position)
        assert match is not None
        pieces.append(match.group())
        position = match.end()
        if position == len(text):
            raise FilterError("the string is not closed", start, expected=[quote])
        character = text[position]
        if character == quote:
            return "".join(pieces), position + 1
        if character == "\\":
            piece, position = _escape(text, position)
        elif character in "\"'":
            piece, position = character, position + 1
        else:
            hint = "use an escape such as \\n"
            raise FilterError(f"control character {character!r} in a string", position, hint=hint)
        pieces.append(piece)


def _escape(text: str, position: int) -> tuple[str, int]:
    code = text[position + 1 : position + 2]
    if code in _ESCAPES:
        return _ESCAPES[code], position + 2
    match = _UNICODE.match(text, position)
    if match is None:
        expected = [*("\\" + escape for escape in _ESCAPES), "\\uXXXX"]
        raise FilterError("unknown escape in a string", position, expected)
    unit, end = int(match.group(1), 16), match.end()
    if not 0xD800 <= unit < 0xE000:
        return chr(unit), end
    low = _UNICODE.match(text, end)
    if unit >= 0xDC00 or low is None or not 0xDC00 <= int(low.group(1), 16) < 0xE000:
        raise FilterError("half of a surrogate pair is no character", position)
    return chr(0x10000 + (unit - 0xD800 << 10) + int(low.group(1), 16) - 0xDC00), low.end()
