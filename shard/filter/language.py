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

from collections.abc import Callable
from typing import cast

from silverray.shard.api import FilterError
from silverray.shard.filter import binder
from silverray.shard.filter.binder import BoundField, Comparison, Value
from silverray.shard.filter.expression import And, Expression, Not, Or
from silverray.shard.filter.lexer import Token, tokenize
from silverray.shard.filter.schema import Schema

MAX_NESTING = 64
"""Most parentheses and negations around a predicate."""

MAX_LIST = 1_000
"""Most values in a list."""

COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
VALUES = ("a string", "a number", "true", "false", 'date("YYYY-MM-DD")')


def parse(text: str, schema: Schema) -> Expression:
    """Parse a filter and bind it to a schema.

    Args:
        text: the filter.
        schema: the fields that it may name.

    Returns:
        Its meaning over stored values.

    Raises:
        FilterError: the text is wrong; the error has the 0-based position, what was expected, and maybe a hint.

    Example:
        >>> text = "{id: film, vector: {dimension: 8, metric: ip}, fields: {year: {type: int}}}"
        >>> parse("year > 1990", Schema.parse(text))
        Range(field='year', low=1991, high=None)
    """
    return _Parser(tokenize(text), schema).parse()


class _Parser:
    def __init__(self, tokens: list[Token], schema: Schema) -> None:
        self._tokens = tokens
        self._schema = schema
        self._next = 0
        self._nesting = 0

    def parse(self) -> Expression:
        expression = self._expression()
        token = self._token
        if token.kind != "end":
            hint = None
            if token.kind == "symbol" and token.text == ")":
                hint = "this parenthesis was never opened"
            raise self._unexpected(["and", "or", "end of filter"], hint)
        return expression

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._token
        self._next += 1
        return token

    def _is(self, *texts: str) -> bool:
        return self._token.kind in ("symbol", "keyword") and self._token.text in texts

    def _accept(self, text: str) -> bool:
        found = self._is(text)
        self._next += found
        return found

    def _expect(self, text: str, *others: str) -> None:
        if not self._accept(text):
            raise self._unexpected([text, *others])

    def _unexpected(self, expected: list[str], hint: str | None = None) -> FilterError:
        token = self._token
        what = token.text if token.kind == "end" else f"`{token.text}`"
        wanted = expected[0] if len(expected) == 1 else f"{', '.join(expected[:-1])} or {expected[-1]}"
        return FilterError(f"unexpected {what}: expected {wanted}", token.position, expected, hint)

    def _expression(self) -> Expression:
        operands = self._joined("or", self._conjunction)
        return operands[0] if len(operands) == 1 else Or(operands)

    def _conjunction(self) -> Expression:
        operands = self._joined("and", self._negation)
        return operands[0] if len(operands) == 1 else And(operands)

    def _joined(self, keyword: str, operand: Callable[[], Expression]) -> tuple[Expression, ...]:
        operands = [operand()]
        while self._accept(keyword):
            operands.append(operand())
        return tuple(operands)

    def _negation(self) -> Expression:
        if not self._is("not", "("):
            return self._predicate()
        token = self._take()
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise FilterError(f"nested deeper than {MAX_NESTING} parentheses and `not`s", token.position)
        if token.text == "not":
            expression: Expression = Not(self._negation())
        else:
            expression = self._expression()
            self._expect(")", "and", "or")
        self._nesting -= 1
        return expression

    def _predicate(self) -> Expression:
        if self._token.kind != "name":
            hint = "a word of the language cannot name a field" if self._token.kind == "keyword" else None
            raise self._unexpected(["a field", "not", "("], hint)
        field = binder.resolve(self._schema, self._take())
        position = self._token.position
        if self._is(*COMPARISONS):
            return self._comparison(field, self._take())
        if self._accept("not"):
            if not self._is("in"):
                raise self._unexpected(["in"], "write `not` before the field")
            self._take()
            return self._member(field, "not in", position)
        if self._is("in", "any", "all"):
            return self._member(field, self._take().text, position)
        if self._accept("between"):
            field.require("between", position)
            low = self._value()
            self._expect("and")
            return binder.between(field, low, self._value())
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null", *([] if negated else ["not null"]))
            return binder.is_null(field, negated)
        if self._ends():
            return binder.is_true(field)
        raise self._unexpected([*field.operators, *(["and", "or"] if field.spec.type == "bool" else [])])

    def _ends(self) -> bool:
        return self._is("and", "or", ")") or self._token.kind == "end"

    def _comparison(self, field: BoundField, operator: Token) -> Expression:
        field.require(operator.text, operator.position)
        value = self._value()
        if operator.text in ("=", "!="):
            return binder.equals(field, [value], negated=operator.text == "!=")
        return binder.compares(field, cast(Comparison, operator.text), value)

    def _member(self, field: BoundField, operator: str, position: int) -> Expression:
        field.require(operator, position)
        values = self._list(operator)
        if operator == "all":
            return binder.contains_all(field, values)
        return binder.equals(field, values, negated=operator == "not in")

    def _list(self, operator: str) -> list[Value]:
        self._expect("(")
        if self._is(")"):
            raise FilterError(f"`{operator} ()`: an empty list", self._token.position, VALUES)
        values = [self._value()]
        while self._accept(","):
            if len(values) == MAX_LIST:
                raise FilterError(f"more than {MAX_LIST:,} values in a list", self._token.position)
            values.append(self._value())
        self._expect(")", ",")
        return values

    def _value(self) -> Value:
        token = self._token
        if token.kind in ("text", "int", "float"):
            self._next += 1
            assert token.value is not None
            return Value(token.value, token.position)
        if self._is("true", "false"):
            return Value(self._take().text == "true", token.position)
        if token.kind == "name" and token.text.lower() == "date" and self._opens(self._next + 1):
            return self._date()
        hint = None
        if token.kind == "keyword" and token.text == "null":
            hint = "use `is null` or `is not null`"
        elif token.kind == "name":
            hint = f'write "{token.text}" for the text {token.text}'
        raise self._unexpected([*VALUES], hint)

    def _opens(self, place: int) -> bool:
        return self._tokens[place].kind == "symbol" and self._tokens[place].text == "("

    def _date(self) -> Value:
        position = self._take().position
        self._expect("(")
        if self._token.kind != "text":
            raise self._unexpected(['"YYYY-MM-DD"'])
        day = binder.parse_date(self._take())
        self._expect(")")
        return Value(day, position)
