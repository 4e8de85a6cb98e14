"""Splits a text of the filter language, or of one akin to it, into tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

from silverray.shard.api import FilterError, TextError
from silverray.shard.filter.deadline import NEVER, Deadline
from silverray.shard.schema.schema import KEYWORDS

MAX_BYTES = 16 * 1024
"""Longest text, in bytes of UTF-8: a list of 1,000 values fits, and the slowest of such texts compiles in a quarter
of a second (decision 2.6)."""

Content = str | int | float
"""What a string or a number stands for."""
TokenKind = Literal["name", "keyword", "text", "int", "float", "symbol", "end"]

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r"[^\\\"'\x00-\x1f]*")
_USUAL_TEXT = r"""\"[^"\\\x00-\x1f]*\"|'[^'\\\x00-\x1f]*'"""
_TEXT = r"""\"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*\"|'[^'\\\x00-\x1f]*(?:\\.[^'\\\x00-\x1f]*)*'"""
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
HINTS = {
    "<>": "use `!=`",
    "!": "use `not` or `!=`",
    "&&": "use `and`",
    "||": "use `or`",
    "&": "use `and`",
    "|": "use `or`",
    "[": "write lists in ( )",
    "{": "write lists in ( )",
    ".": "write a digit before the point",
    "≠": "use `!=`",
    "≤": "use `<=`",
    "≥": "use `>=`",
    **dict.fromkeys("“”„‟«»‘’‚‹›", "use straight quotes, \" or '"),  # noqa: RUF001 (they look alike, on purpose)
}
"""What to write instead of what no language has."""


@dataclass(frozen=True)
class Dialect:
    """What sets one language's tokens apart from another's; strings, keywords and the forms of numbers are common.

    Attributes:
        name: what messages call a text.
        error: what is raised.
        word: a keyword or a name; as those that follow it has no groups.
        number: a number; whole without point and exponent.
        symbol: any other token.
        hints: how to mend what is no token, by its first two characters or the first alone.
    """

    name: str
    error: type[TextError]
    word: re.Pattern[str]
    number: re.Pattern[str]
    symbol: re.Pattern[str]
    hints: Mapping[str, str]

    @cached_property
    def usual(self) -> re.Pattern[str]:
        """Matches one token, of the group that is its kind; nothing where it is unusual.

        Usual are words, numbers, strings without escapes, and symbols that no hint is for.
        """
        return re.compile(
            rf"(?P<word>{self.word.pattern})|(?P<number>{self.number.pattern})(?![\w.])"
            rf"|(?P<text>{_USUAL_TEXT})|(?!{self._hinted})(?P<symbol>{self.symbol.pattern})"
        )

    @cached_property
    def piece(self) -> re.Pattern[str]:
        """Matches one token with the space after it, or all that is left where something is no token."""
        return re.compile(
            rf"(?:{self.word.pattern}|{self.number.pattern}(?![\w.])|{_TEXT}"
            rf"|(?!{self._hinted})(?:{self.symbol.pattern}))[ \t\r\n]*|(?s:.+)"
        )

    @property
    def _hinted(self) -> str:
        return "|".join(re.escape(pair) for pair in self.hints if len(pair) > 1)


FILTER = Dialect(
    name="filter",
    error=FilterError,
    word=re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    number=re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"),
    symbol=re.compile(r"!=|<=|>=|[=<>(),]"),
    hints=HINTS
    | {
        "==": "use `=`",
        "=~": "texts are compared whole: use `=` or `in`",
        "~": "texts are compared whole: use `=` or `in`",
        ":": "use `=`",
        "+": "write numbers without +",
        "-": "write a digit after the -; a filter does not calculate",
        "*": "a filter does not calculate",
        "/": "a filter does not calculate",
        "%": "a filter does not calculate",
        "`": "names of fields stand without quotes",
    },
)


class Token(NamedTuple):
    """A piece of a text.

    Attributes:
        kind: what it is.
        text: as written; a keyword in lower case.
        position: where it starts, in characters from 0.
        value: what a "text", "int" or "float" stands for.
    """

    kind: TokenKind
    text: str
    position: int
    value: Content | None = None


class Tokens:
    """The tokens of a text, as columns: most are looked at but for what they are.

    Args:
        lexemes: the tokens; their positions do not count.
        positions: where they start.

    Attributes:
        marks: the text of each that is a symbol or a keyword, "" for others.
        values: what each stands for, see `Token`.
        positions: as given.
    """

    __slots__ = ("_lexemes", "marks", "positions", "values")

    def __init__(self, lexemes: list[Token], positions: list[int]) -> None:
        self._lexemes = lexemes
        self.marks = [text if kind in ("symbol", "keyword") else "" for kind, text, _, _ in lexemes]
        self.values = [value for _, _, _, value in lexemes]
        self.positions = positions

    def __getitem__(self, place: int) -> Token:
        kind, text, _, value = self._lexemes[place]
        return Token(kind, text, self.positions[place], value)

    def kind(self, place: int) -> TokenKind:
        """What a token is."""
        return self._lexemes[place][0]


def tokenize(text: str, dialect: Dialect, deadline: Deadline = NEVER) -> Tokens:
    """Split a text; the last token is the "end".

    Raises:
        TextError: the text is too long, or holds something that is no token; of the dialect's own type.
        DeadlineExceeded: the deadline came first; it is looked at before each token that is not like one before it.
    """
    return _Lexer(text, dialect).tokens(deadline)


class _Lexer:
    def __init__(self, text: str, dialect: Dialect) -> None:
        self._text = text
        self._dialect = dialect
        self._error = dialect.error

    def tokens(self, deadline: Deadline) -> Tokens:
        """Split at once, and make each token once however often it stands in the text."""
        self._check_size()
        start = self._skip_space(0)
        pieces = self._dialect.piece.findall(self._text, start)
        positions = list(accumulate(map(len, pieces), initial=start))
        made: dict[str, Token] = {}
        for piece, position in zip(pieces, positions, strict=False):  # the end has a position and no piece
            if piece not in made:
                deadline.check()
                made[piece] = self._token(position)
        end = Token("end", f"end of {self._dialect.name}", len(self._text))
        return Tokens([*map(made.__getitem__, pieces), end], positions)

    def _check_size(self) -> None:
        try:
            encoded = self._text.encode()
        except UnicodeEncodeError as error:
            raise self._error("half of a surrogate pair is no character", error.start) from None
        if len(encoded) > MAX_BYTES:
            position = len(encoded[:MAX_BYTES].decode(errors="ignore"))
            message = f"the {self._dialect.name} has {len(encoded):,} bytes, the limit is {MAX_BYTES:,}"
            raise self._error(message, position)

    def _token(self, position: int) -> Token:
        match = self._dialect.usual.match(self._text, position)
        if match is None:
            return self._unusual(position)
        kind, piece = match.lastgroup, match.group()
        if kind == "symbol":
            return Token("symbol", piece, position)
        if kind == "text":
            return Token("text", piece, position, piece[1:-1])
        if kind == "word":
            word = piece.lower()
            return Token("keyword", word, position) if word in KEYWORDS else Token("name", piece, position)
        return self._number(piece, position)

    def _skip_space(self, position: int) -> int:
        match = _SPACE.match(self._text, position)
        assert match is not None
        return match.end()

    def _unusual(self, position: int) -> Token:
        """A string with escapes, or the error that stands there."""
        text, dialect = self._text, self._dialect
        if match := dialect.number.match(text, position):
            following = text[match.end()]
            raise self._error(f"unexpected character {following!r} in a number", match.end())
        if text[position] in "\"'":
            value, end = self._string(position)
            return Token("text", text[position:end], position, value)
        pair, hints = text[position : position + 2], dialect.hints
        hint = hints.get(pair, hints.get(text[position]))
        raise self._error(f"unexpected {pair if pair in hints else text[position]!r}", position, hint=hint)

    def _number(self, digits: str, start: int) -> Token:
        if digits.lstrip("-").isdigit():
            # int() refuses thousands of digits, zeros included; int64 has at most 19.
            number = int(digits.lstrip("-0")[:20] or "0") * (-1 if digits[0] == "-" else 1)
            if not -(2**63) <= number < 2**63:
                raise self._error("the integer does not fit in 64 bits", start)
            return Token("int", digits, start, number)
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise self._error("the number is too large", start)
        return Token("float", digits, start, value)

    def _string(self, start: int) -> tuple[str, int]:
        text, quote, position, pieces = self._text, self._text[start], start + 1, []
        while True:
            match = _PLAIN.match(text, position)
            assert match is not None
            pieces.append(match.group())
            position = match.end()
            if position == len(text):
                raise self._error("the string is not closed", start, expected=[quote])
            character = text[position]
            if character == quote:
                return "".join(pieces), position + 1
            if character == "\\":
                piece, position = self._escape(position)
            elif character in "\"'":
                piece, position = character, position + 1
            else:
                hint = "use an escape such as \\n"
                raise self._error(f"control character {character!r} in a string", position, hint=hint)
            pieces.append(piece)

    def _escape(self, position: int) -> tuple[str, int]:
        text = self._text
        code = text[position + 1 : position + 2]
        if code in _ESCAPES:
            return _ESCAPES[code], position + 2
        match = _UNICODE.match(text, position)
        if match is None:
            expected = [*("\\" + escape for escape in _ESCAPES), "\\uXXXX"]
            raise self._error("unknown escape in a string", position, expected)
        unit, end = int(match.group(1), 16), match.end()
        if not 0xD800 <= unit < 0xE000:
            return chr(unit), end
        low = _UNICODE.match(text, end)
        if unit >= 0xDC00 or low is None or not 0xDC00 <= int(low.group(1), 16) < 0xE000:
            raise self._error("half of a surrogate pair is no character", position)
        return chr(0x10000 + (unit - 0xD800 << 10) + int(low.group(1), 16) - 0xDC00), low.end()
