"""Reading tokens one by one: what the parsers of filters and of formulas have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from silverray.shard.api import TextError
from silverray.shard.filter.binder import Value, parse_date
from silverray.shard.filter.bound_field import BoundField
from silverray.shard.filter.deadline import NEVER, Deadline
from silverray.shard.filter.hints import value_hint
from silverray.shard.filter.lexer import Content, Dialect, Token, tokenize

MAX_LIST = 1_000
"""Most values in a list: about as many instructions as a program may have, where each value is a plane."""

VALUES = ("a string", "a number", "true", "false", 'date("YYYY-MM-DD")')

T = TypeVar("T")


class Cursor:
    """A place among the tokens of a text.

    Args:
        text: the text.
        dialect: its language.
        deadline: of reading its tokens.

    Raises:
        TextError: the text is too long, or holds something that is no token.
        DeadlineExceeded: the deadline came first.
    """

    def __init__(self, text: str, dialect: Dialect, deadline: Deadline = NEVER) -> None:
        self._tokens = tokenize(text, dialect, deadline)
        self._marks = self._tokens.marks
        self._dialect = dialect
        self._next = 0

    @property
    def token(self) -> Token:
        """The token that comes next."""
        return self._tokens[self._next]

    def take(self) -> Token:
        """Go past the next token, which must not be the end."""
        token = self.token
        self._next += 1
        return token

    def at(self, *texts: str) -> bool:
        """Whether a symbol or keyword of these comes next."""
        return self._marks[self._next] in texts

    def at_end(self) -> bool:
        """Whether nothing comes next."""
        return self._next == len(self._marks) - 1

    def at_name(self) -> bool:
        """Whether a name comes next."""
        return self._tokens.kind(self._next) == "name"

    def at_call(self) -> bool:
        """Whether a name and an opening parenthesis come next."""
        return self.at_name() and self._marks[self._next + 1] == "("

    def accept(self, text: str) -> bool:
        """Go past a symbol or keyword if it comes next, and say whether it did."""
        found = self._marks[self._next] == text
        self._next += found
        return found

    def expect(self, text: str, *others: str) -> None:
        """Go past a symbol or keyword; raises TextError, which also names the `others`, where it does not come next."""
        if not self.accept(text):
            raise self.unexpected([text, *others])

    def unexpected(self, expected: list[str], hint: str | None = None) -> TextError:
        """The error that the next token is."""
        token = self.token
        what = token.text if token.kind == "end" else f"`{token.text}`"
        wanted = expected[0] if len(expected) == 1 else f"{', '.join(expected[:-1])} or {expected[-1]}"
        return self._dialect.error(f"unexpected {what}: expected {wanted}", token.position, expected, hint)

    def expect_end(self, *others: str) -> None:
        """Check that nothing follows; raises TextError, which also names the `others`, otherwise."""
        if not self.at_end():
            hint = "this parenthesis was never opened" if self.at(")") else None
            raise self.unexpected([*others, f"end of {self._dialect.name}"], hint)

    def joined(self, separator: str, part: Callable[[], T]) -> list[T]:
        """Read one part or more with a symbol or keyword between them."""
        parts = [part()]
        while self.accept(separator):
            parts.append(part())
        return parts

    def plain_values(self) -> list[Content] | None:
        """Read a list as `values` does, where it is one of strings and numbers alone; nothing is read otherwise."""
        marks, first = self._marks, self._next + 1
        if marks[self._next] != "(" or ")" not in marks[first : first + 2 * MAX_LIST]:
            return None
        end = marks.index(")", first)
        contents, between = self._tokens.values[first:end:2], marks[first + 1 : end : 2]
        if (end - first) % 2 == 0 or between.count(",") != len(between) or None in contents:
            return None
        self._next = end + 1
        return contents  # type: ignore[return-value]  # none is None

    def values(self, operator: str, field: BoundField | None = None) -> list[Value]:
        """Read a list of literals in parentheses.

        Raises:
            TextError: it is empty, too long or no list; `operator` is what stands before it, `field` what it is for.
        """
        if not self.accept("("):
            raise self.unexpected(["("], "write lists in ( )")
        if self.at(")"):
            raise self._dialect.error(f"`{operator} ()`: an empty list", self.token.position, VALUES)
        values = [self.value(field)]
        while self.accept(","):
            if len(values) == MAX_LIST:
                raise self._dialect.error(f"more than {MAX_LIST:,} values in a list", self.token.position)
            values.append(self.value(field))
        self.expect(")", ",")
        return values

    def value(self, field: BoundField | None = None) -> Value:
        """Read a literal, for `field` where it is known; raises TextError where none comes next."""
        token = self.token
        if token.kind in ("text", "int", "float"):
            self._next += 1
            assert token.value is not None
            return Value(token.value, token.position)
        if self.accept("-"):  # where numbers have no sign of their own
            return Value(-self._number(), token.position)
        if self.at("true", "false"):
            return Value(self.take().text == "true", token.position)
        if self.at_date():
            return self._date()
        raise self.unexpected([*VALUES], value_hint(token, field))

    def _number(self) -> int | float:
        if self.token.kind not in ("int", "float"):
            raise self.unexpected(["a number"])
        value = self.take().value
        assert isinstance(value, int | float)
        return value

    def at_date(self) -> bool:
        """Whether a date literal comes next."""
        return self.at_call() and self.token.text.lower() == "date"

    def _date(self) -> Value:
        position = self.take().position
        self.expect("(")
        if self.token.kind != "text":
            raise self.unexpected(['"YYYY-MM-DD"'])
        day = parse_date(self.take())
        self.expect(")")
        return Value(day, position)
