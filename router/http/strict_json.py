"""JSON as it stands: orjson takes the last of keys that stand twice in one object, so that a filter may vanish unseen,
and makes floats of integers beyond 64 bits, so that a field would take what it cannot hold."""

from __future__ import annotations

import json
from typing import Any

import orjson

_KEY_ENDS = (b'":', b" :", b"\n:", b"\t:", b"\r:")
_SHOWN = 100
"""Characters of a key that a message shows: a key may be as long as a body."""
_CONTAINERS = {dict, list}
_LONG = 2.0**63
"""From here on a float may have been an integer."""


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Make an object of its pairs.

    Raises:
        ValueError: a key stands twice in it; the message names it.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[Any] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:_SHOWN]!r} stands twice in one object")
            seen.add(key)
    return content


def loads_strict(body: bytes) -> Any:
    """Decode JSON whose objects have each key once; integers of any length that are values of keys stay integers.

    Keys are counted in the text and in what was decoded, which costs little beside decoding. Only where the numbers
    differ, since a text looks like a key or is one that is lost, or where a number may be an integer beyond 64 bits,
    the body is read by a decoder that sees every pair and every digit.

    Raises:
        ValueError: it is not JSON, or a key stands twice in one object.
        RecursionError: it is nested too deep.

    Example:
        >>> loads_strict(b'{"price": 18446744073709551617}')
        {'price': 18446744073709551617}
    """
    document = orjson.loads(body)
    decoded, long = _survey(document)
    if long:
        return json.loads(body, object_pairs_hook=unique)
    # Each key ends in a quotation mark, white space perhaps, and a colon, so that the sum is not too small.
    # All colons are counted first, which is the fastest and enough where no text holds one.
    if body.count(b":") != decoded and sum(map(body.count, _KEY_ENDS)) != decoded:
        json.loads(body, object_pairs_hook=unique, parse_int=len, parse_float=len)
    return document


def _survey(document: object) -> tuple[int, bool]:
    """The keys in a document, and whether the value of one is a number that long integers become.

    Arrays that begin with neither object nor array are passed over: vectors are long.
    """
    count, long = 0, False
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            count += len(one)
            for value in one.values():
                kind = type(value)
                if kind is dict or kind is list:
                    waiting.append(value)
                elif kind is float and not -_LONG < value < _LONG:
                    long = True
        elif type(one) is list and one and type(one[0]) in _CONTAINERS:
            waiting.extend(one)
    return count, long
