"""The language of formulas: a recursive-descent parser.

formula = conjunction {"or" conjunction}
conjunction = negation {"and" negation}
negation = "not" negation | condition
condition = sum | sum ("==" | "=" | "!=" | "<" | "<=" | ">" | ">=") sum
          | sum "between" sum "and" sum | sum "is" ["not"] "null"
          | sum ["not"] "in" list | sum ("any" | "all") list
sum = product {("+" | "-") product}
product = sign {("*" | "/") sign}
sign = ("-" | "+") sign | operand
operand = literal | NAME | SCOPE "." NAME | FUNCTION "(" formula {"," formula} ")" | "(" formula ")"
list = "(" literal {"," literal} ")"
literal = TEXT | ["-"] INTEGER | ["-"] FLOAT | "true" | "false" | "date" "(" TEXT ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from silverray.shard.api import FilterError, FormulaError
from silverray.shard.filter.binder import Value
from silverray.shard.filter.cursor import Cursor
from silverray.shard.filter.lexer import HINTS, Dialect, Token
from silverray.shard.hints import closest
from silverray.shard.value.syntax import ARITIES, COMPARISONS, FUNCTIONS, Call, Name, Syntax

MAX_NESTING = 32
"""Most parentheses, functions, signs and `not`s around an operand: each is a call of the parser's, and Python's stack
has some hundreds."""
MAX_DEPTH = 64
"""Most operations on the way from the whole formula to an operand; what walks over the tree calls itself so often."""
MAX_NODES = 1_024
"""Most literals, names and operations of a formula: each may be a pass over all candidates of a batch, and formulas
that people write have tens."""

FORMULA = Dialect(
    name="formula",
    error=FormulaError,
    word=re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"),
    number=re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"),
    symbol=re.compile(r"==|!=|<=|>=|[=<>(),+\-*/]"),
    hints=HINTS
    | {
        ".": "write a name after the point, or a digit before it",
        "**": "use pow(x, y)",
        "^": "use pow(x, y)",
        "?": "use if(condition, x, y)",
    },
)


def parse(text: str) -> Syntax:
    """Parse a formula.

    Args:
        text: the formula.

    Returns:
        Its tree; names are not looked up and types not checked.

    Raises:
        FormulaError: the text is wrong; the error has the 0-based position, what was expected, and maybe a hint.

    Example:
        >>> parse("2 * click")
        Call(operator='*', operands=(Value(value=2, position=0), Name(text='click', position=4)), position=2)
    """
    with formula_errors():
        return _Parser(text).parse()


@contextmanager
def formula_errors() -> Iterator[None]:
    """Turn the errors of what formulas share with filters into errors of formulas."""
    try:
        yield
    except FilterError as error:
        raise FormulaError(error.message, error.position, error.expected, error.hint) from None


class _Parser(Cursor):
    def __init__(self, text: str) -> None:
        super().__init__(text, FORMULA)
        self._nesting = 0

    def parse(self) -> Syntax:
        tree = self._formula()
        self.expect_end("an operator")
        _check_size(tree)
        return tree

    def _formula(self) -> Syntax:
        return self._chain(("or",), self._conjunction)

    def _conjunction(self) -> Syntax:
        return self._chain(("and",), self._negation)

    def _negation(self) -> Syntax:
        if not self.at("not"):
            return self._condition()
        token = self.take()
        with self._nested(token):
            return Call("not", (self._negation(),), token.position)

    def _condition(self) -> Syntax:
        left, token = self._sum(), self.token
        position = token.position
        tree = left
        if self.at("=", *COMPARISONS):
            self.take()
            tree = Call("==" if token.text == "=" else token.text, (left, self._sum()), position)
        elif self.accept("between"):
            low = self._sum()
            self.expect("and")
            tree = Call("between", (left, low, self._sum()), position)
        elif self.accept("is"):
            negated = self.accept("not")
            self.expect("null", *([] if negated else ["not null"]))
            tree = Call("is not null" if negated else "is null", (left,), position)
        elif self.accept("not"):
            if not self.accept("in"):
                raise self.unexpected(["in"], "write `not` before the whole condition")
            tree = Call("not in", (left, *self.values("not in")), position)
        elif self.at("in", "any", "all"):
            self.take()
            tree = Call(token.text, (left, *self.values(token.text)), position)
        if tree is not left and self.at("=", *COMPARISONS):
            raise FormulaError("a comparison of a comparison", self.token.position, hint="write `a < b and b < c`")
        if tree is not left and self.at("+", "-", "*", "/"):
            hint = "put the condition in parentheses"
            raise FormulaError(f"`{self.token.text}` after a condition", self.token.position, hint=hint)
        return tree

    def _sum(self) -> Syntax:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Syntax:
        return self._chain(("*", "/"), self._sign)

    def _chain(self, operators: Sequence[str], operand: Callable[[], Syntax]) -> Syntax:
        """Read operands with operators between them; from the left, each run of one operator is one call."""
        tree = operand()
        while self.at(*operators):
            token, operands = self.token, [tree]
            while self.accept(token.text):
                operands.append(operand())
            tree = Call(token.text, tuple(operands), token.position)
        return tree

    def _sign(self) -> Syntax:
        if not self.at("-", "+"):
            return self._operand()
        token = self.take()
        with self._nested(token):
            operand = self._sign()
        if token.text == "+":
            return operand
        match operand:
            case Value(int() | float() as number) if not isinstance(number, bool):
                return Value(-number, token.position)
        return Call("-", (operand,), token.position)

    def _operand(self) -> Syntax:
        token = self.token
        if self.accept("("):
            with self._nested(token):
                tree = self._formula()
            self.expect(")", "an operator")
            return tree
        if self.at_call() and not self.at_date():
            return self._function()
        if token.kind == "name" and not self.at_date():
            self.take()
            return Name(token.text, token.position)
        if token.kind in ("text", "int", "float", "name") or self.at("true", "false"):
            return self.value()
        hint = "a word of the language cannot be a name" if token.kind == "keyword" else None
        raise self.unexpected(["a name", "a literal", "a function", "("], hint)

    def _function(self) -> Syntax:
        token, name = self.token, self.token.text.lower()
        if name not in FUNCTIONS:
            close = closest(name, FUNCTIONS)
            hint = f"did you mean {close}?" if close else None
            raise FormulaError(f"unknown function {token.text}", token.position, list(FUNCTIONS), hint)
        self.take()
        self.expect("(")
        arguments: list[Syntax] = []
        if not self.at(")"):
            with self._nested(token):
                arguments = self.joined(",", self._formula)
        closing = self.token.position
        self.expect(")", ",", "an operator")
        check_arity(name, len(arguments), closing)
        return Call(name, tuple(arguments), token.position)

    @contextmanager
    def _nested(self, token: Token) -> Iterator[None]:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise FormulaError(f"nested deeper than {MAX_NESTING} parentheses, functions and signs", token.position)
        yield
        self._nesting -= 1


def check_arity(operator: str, given: int, position: int, where: str | None = None) -> None:
    """Check the number of operands of an operator or function.

    Raises:
        FormulaError: there are too few or too many.
    """
    least, most = ARITIES[operator]
    if given < least or (most is not None and given > most):
        wanted = f"{least} or more" if most is None else str(least)
        raise FormulaError(f"{operator}: expected {wanted} operands, got {given}", position, where=where)


def _check_size(tree: Syntax) -> None:
    """Check the size of a tree, so that whatever goes through it by recursion can."""
    nodes, left = 0, [(tree, 1)]
    while left:
        node, depth = left.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise FormulaError(f"more than {MAX_NODES:,} names, literals and operations", node.position)
        if isinstance(node, Call):
            if depth > MAX_DEPTH:
                hint = "a chain of one operator counts once: sort the terms"
                raise FormulaError(f"more than {MAX_DEPTH} operations within each other", node.position, hint=hint)
            left += [(operand, depth + 1) for operand in node.operands]
