"""The filter language: a recursive-descent parser.

expression = conjunction {"or" conjunction}
conjunction = negation {"and" negation}
negation = "not" negation | "(" expression ")" | predicate
predicate = FIELD | FIELD ("=" | "!=" | "<" | "<=" | ">" | ">=") value
          | FIELD ["not"] "in" list | FIELD ("any" | "all") list
          | FIELD "between" value "and" value | FIELD "is" ["not"] "null"
list = "(" value {"," value} ")"
value = TEXT | INTEGER | FLOAT | "true" | "false" | "date" "(" TEXT ")"
"""

from __future__ import annotations

from typing import cast

from silverray.shard.api import FilterError
from silverray.shard.filter import binder
from silverray.shard.filter.binder import Comparison
from silverray.shard.filter.bound_field import BoundField
from silverray.shard.filter.cursor import Cursor
from silverray.shard.filter.deadline import NEVER, Deadline
from silverray.shard.filter.expression import And, Expression, Not, Or
from silverray.shard.filter.hints import is_hint, operator_hint, start_hint
from silverray.shard.filter.lexer import FILTER, Token
from silverray.shard.schema.schema import Schema

MAX_NESTING = 64
"""Most parentheses and negations around a predicate: the parser calls itself for each, and a text of 16 KiB could
hold thousands."""

COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")


def parse(text: str, schema: Schema, deadline: Deadline = NEVER) -> Expression:
    """Parse a filter and bind it to a schema.

    Args:
        text: the filter.
        schema: the fields that it may name.
        deadline: looked at before each predicate.

    Returns:
        Its meaning over stored values.

    Raises:
        FilterError: the text is wrong; the error has the 0-based position, what was expected, and maybe a hint.
        DeadlineExceeded: the deadline came first.

    Example:
        >>> text = "{id: film, vector: {dimension: 8, metric: ip}, fields: {year: {type: int}}}"
        >>> parse("year > 1990", Schema.parse(text))
        Range(field='year', low=1991, high=None)
    """
    return _Parser(text, schema, deadline).parse()


class _Parser(Cursor):
    def __init__(self, text: str, schema: Schema, deadline: Deadline) -> None:
        super().__init__(text, FILTER, deadline)
        self._schema = schema
        self._deadline = deadline
        self._nesting = 0

    def parse(self) -> Expression:
        expression = self._expression()
        self.expect_end("and", "or")
        return expression

    def _expression(self) -> Expression:
        operands = tuple(self.joined("or", self._conjunction))
        return operands[0] if len(operands) == 1 else Or(operands)

    def _conjunction(self) -> Expression:
        operands = tuple(self.joined("and", self._negation))
        return operands[0] if len(operands) == 1 else And(operands)

    def _negation(self) -> Expression:
        if not self.at("not", "("):
            return self._predicate()
        token = self.take()
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise FilterError(f"nested deeper than {MAX_NESTING} parentheses and `not`s", token.position)
        if token.text == "not":
            expression: Expression = Not(self._negation())
        else:
            expression = self._expression()
            self.expect(")", "and", "or")
        self._nesting -= 1
        return expression

    def _predicate(self) -> Expression:
        self._deadline.check()
        if not self.at_name():
            raise self.unexpected(["a field", "not", "("], start_hint(self.token))
        field = binder.resolve(self._schema, self.take())
        if self.at(*COMPARISONS):
            return self._comparison(field, self.take())
        if self.at("and", "or", ")") or self.at_end():
            return binder.is_true(field)
        position = self.token.position
        if self.accept("not"):
            if not self.at("in"):
                raise self.unexpected(["in"], "write `not` before the field")
            self.take()
            return self._member(field, "not in", position)
        if self.at("in", "any", "all"):
            return self._member(field, self.take().text, position)
        if self.accept("between"):
            field.require("between", position)
            low = self.value(field)
            self.expect("and")
            return binder.between(field, low, self.value(field))
        if self.accept("is"):
            negated = self.accept("not")
            if not self.accept("null"):
                expected = ["null", *([] if negated else ["not null"])]
                raise self.unexpected(expected, is_hint(self.token, field, negated))
            return binder.is_null(field, negated)
        expected = [*field.operators, *(["and", "or"] if field.spec.type == "bool" else [])]
        raise self.unexpected(expected, operator_hint(self.token, field))

    def _comparison(self, field: BoundField, operator: Token) -> Expression:
        field.require(operator.text, operator.position)
        value = self.value(field)
        if operator.text in ("=", "!="):
            return binder.one_of(field, binder.stored(field, [value]), negated=operator.text == "!=")
        return binder.compares(field, cast(Comparison, operator.text), value)

    def _member(self, field: BoundField, operator: str, position: int) -> Expression:
        field.require(operator, position)
        values = self._stored(operator, field)
        if operator == "all":
            return binder.contains_all(field, values)
        return binder.one_of(field, values, negated=operator == "not in")

    def _stored(self, operator: str, field: BoundField) -> set[int] | set[float]:
        """Read a list of values as they are stored."""
        start, contents = self._next, self.plain_values()
        stored = None if contents is None else binder.stored_alike(field, contents)
        if stored is not None:
            return stored
        self._next = start  # now with each value's place, which errors tell
        return binder.stored(field, self.values(operator, field))
