"""What to write instead of what the filter language does not have."""

from __future__ import annotations

from silverray.shard.filter.bound_field import BoundField
from silverray.shard.filter.lexer import Token

_PATTERNS = {"like", "ilike", "rlike", "regexp", "matches", "match", "startswith", "endswith", "glob"}
_HOLDING = {"contains", "has", "includes", "overlaps"}
_NO_VALUE = {"none", "nil", "undefined"}
_NULL = "use `is null` or `is not null`"
_NUMBERS = ("int", "float")


def value_hint(token: Token, field: BoundField | None) -> str | None:
    """What to write instead of a token that is no literal, where a value of `field` (None: unknown) should be."""
    if token.kind == "keyword" and token.text == "null":
        return _NULL
    if token.kind == "symbol" and token.text in ("<", ">"):  # after a =
        return f"use `{token.text}=`"
    if token.kind != "name":
        return None
    word, type_ = token.text.lower(), None if field is None else field.spec.type
    if field is not None and word in _NO_VALUE:
        return _NULL
    if field is None or type_ in ("category", "tags"):
        return f'write "{token.text}" for the text {token.text}'
    if type_ == "date":
        return 'dates are literals: write date("2001-05-01")'
    if type_ == "bool":
        return "write true or false"
    if word == "nan":
        return f"NaN is no value: write `{field.name} is null`" if field.spec.nullable else "no stored value is NaN"
    if word in ("inf", "infinity"):
        return "infinity has no literal: compare with a large number, such as 1e308"
    return "write a number"


def operator_hint(token: Token, field: BoundField) -> str | None:
    """What to write instead of a token that is no operator of `field`."""
    word, tags = token.text.lower(), field.spec.type == "tags"
    if word in _HOLDING and tags:
        return "use `any` or `all`"
    if word in _PATTERNS or word in _HOLDING:
        return f"texts are compared whole: use {'`any`' if tags else '`=` or `in`'}"
    return None


def start_hint(token: Token) -> str | None:
    """What to write instead of a token that begins no predicate."""
    if token.kind == "text":
        return "names of fields stand without quotes, before the operator"
    if token.kind in ("int", "float") or token.text in ("true", "false"):
        return "write the field first, such as `year > 1990`"
    return "a word of the language cannot name a field" if token.kind == "keyword" else None


def is_hint(token: Token, field: BoundField, negated: bool) -> str | None:
    """What to write instead of `is` and a token that is not null."""
    if token.kind == "end" or (token.kind == "keyword" and token.text not in ("true", "false")):
        return None
    if field.spec.type == "tags":
        return "only null stands after `is`: use `any` or `all`"
    return f"only null stands after `is`: use `{'!=' if negated else '='}`"


def mismatch_hint(field: BoundField, value: object) -> str:
    """What to write instead of a literal of another type than the field's."""
    match field.spec.type:
        case "date":
            return 'write date("YYYY-MM-DD")'
        case "category" | "tags":
            return "write the value in quotes"
        case "bool":
            quoted = isinstance(value, str) and value.lower() in ("true", "false")
            return "write the value without quotes" if quoted else "write true or false"
    if isinstance(value, str) and _is_number(value):
        return "write the value without quotes"
    return "write a number"


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdecimal()
