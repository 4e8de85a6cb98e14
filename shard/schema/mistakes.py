"""What pydantic finds wrong in a description, in our words."""

from __future__ import annotations

from typing import Any

from silverray.shard.api import shown

_PLAIN = {"missing": "missing key", "extra_forbidden": "unknown key"}
_EXPECTED = {
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "path_type": "a path",
    "string_unicode": "a string",
    "invalid_key": "a string as key",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}


def describe_mistake(entry: Any) -> str:
    """One of pydantic's errors as `key: expected ..., got ...`.

    Args:
        entry: of `ValidationError.errors()`.
    """
    kind, context, value = entry["type"], entry.get("ctx", {}), entry["input"]
    path = list(entry["loc"])
    if path[-1:] == ["[key]"]:
        path[-2:] = [value]  # a key that is no string, such as YAML's `no`
    if kind in ("too_short", "too_long"):
        value = context["actual_length"]
    if kind.startswith("union_tag"):
        path.append(context["discriminator"].strip("'"))
        value = context.get("tag")
    key = ".".join(map(str, path))
    message = _message(kind, context, value, entry["msg"])
    return f"{key}: {message}" if key else message


def _message(kind: str, context: Any, value: object, said: str) -> str:
    if kind == "union_tag_not_found":
        return _PLAIN["missing"]
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind == "value_error":
        return said.removeprefix("Value error, ")
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else said.removeprefix("Input should be ")
    return f"expected {expected}, got {_got(value)}"


def _got(value: object) -> str:
    return "keys and values" if isinstance(value, dict) else "a list" if isinstance(value, list) else shown(value)
