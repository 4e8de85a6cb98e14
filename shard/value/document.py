"""Formulas as JSON: the form that programs write.

number, true, false        themselves
{"text": "US"}             a string
{"date": "2001-05-01"}     a date
"click", "item.duration"   a name
{"+": [x, y, z]}           an operator or function of `silverray.shard.value.syntax.ARITIES`, with its operands
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Any

from silverray.shard.api import FormulaError
from silverray.shard.filter.binder import Value, parse_date
from silverray.shard.filter.lexer import Token
from silverray.shard.value.language import FORMULA, MAX_DEPTH, check_arity, formula_errors, parse
from silverray.shard.value.syntax import ARITIES, Call, Name, Syntax, to_text


def to_document(tree: Syntax) -> Any:
    """Write a tree as JSON values.

    Example:
        >>> to_document(parse('2 * click * (country == "US")'))
        {'*': [2, 'click', {'==': ['country', {'text': 'US'}]}]}
    """
    match tree:
        case Name(text):
            return text
        case Value(str() as text):
            return {"text": text}
        case Value(date() as day):
            return {"date": day.isoformat()}
        case Value(value):
            return value
        case Call(operator, operands):
            return {operator: [to_document(operand) for operand in operands]}


def from_document(document: Any) -> Syntax:
    """Read a tree from JSON values.

    Args:
        document: what `to_document` writes.

    Returns:
        The tree; its positions, and those of errors later on, are those in the text that `to_text` writes.

    Raises:
        FormulaError: the document is no formula; `where` is the path of what is wrong, such as `["+"][1]`.
    """
    return parse(to_text(_decoded(document, "", 1)))


def _decoded(document: Any, path: str, depth: int) -> Syntax:
    match document:
        case bool():
            return Value(document, 0)
        case int() if -(2**63) < document < 2**63:
            return Value(document, 0)
        case float() if math.isfinite(document):
            return Value(document, 0)
        case str() if FORMULA.word.fullmatch(document):
            return Name(document, 0)
        case Mapping() if len(document) == 1:
            ((key, content),) = document.items()
            return _decoded_object(key, content, path, depth)
    expected = ["a finite number", "true", "false", "a name", "an object of one key"]
    raise FormulaError(f"expected {', '.join(expected)}; got {_shown(document)}", 0, expected, where=path or None)


def _decoded_object(key: Any, content: Any, path: str, depth: int) -> Syntax:
    inner = f'{path}["{key}"]'
    if key in ("text", "date"):
        if not isinstance(content, str):
            raise FormulaError(f"expected a string, got {_shown(content)}", 0, where=inner)
        if key == "text":
            return Value(content, 0)
        with formula_errors():
            return Value(parse_date(Token("text", repr(content), 0, content)), 0)
    if key not in ARITIES:
        raise FormulaError(f"unknown operator {_shown(key)}", 0, ["text", "date", *ARITIES], where=path or None)
    if not isinstance(content, list):
        raise FormulaError(f"expected a list of operands, got {_shown(content)}", 0, where=inner)
    if depth > MAX_DEPTH:
        raise FormulaError(f"more than {MAX_DEPTH} operations within each other", 0, where=path)
    check_arity(key, len(content), 0, inner)
    operands = tuple(_decoded(operand, f"{inner}[{place}]", depth + 1) for place, operand in enumerate(content))
    return Call(key, operands, 0)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "an integer beyond 64 bits"
    return text if len(text) <= 60 else f"{text[:57]}..."
