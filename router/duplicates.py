"""Keys that stand twice in one object: decoders take the last silently, so that a filter may vanish unseen."""

from __future__ import annotations

import json
from typing import Any

import orjson

_KEY_ENDS = (b'":', b" :", b"\n:", b"\t:", b"\r:")
_SHOWN = 100
_CONTAINERS = {dict, list}


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


def loads_unique(body: bytes) -> Any:
    """Decode JSON whose objects have each key once.

    Keys are counted in the text and in what was decoded, which costs little beside decoding. Only where the numbers
    differ, since a text looks like a key or is one that is lost, the body is read by a decoder that sees every pair.

    Raises:
        ValueError: it is not JSON, or a key stands twice in one object.
        RecursionError: it is nested too deep.
    """
    document = orjson.loads(body)
    decoded = _count(document)
    # Each key ends in a quotation mark, white space perhaps, and a colon, so that the sum is not too small.
    # All colons are counted first, which is the fastest and enough where no text holds one.
    if body.count(b":") != decoded and sum(map(body.count, _KEY_ENDS)) != decoded:
        json.loads(body, object_pairs_hook=unique, parse_int=len, parse_float=len)
    return document


def _count(document: object) -> int:
    """The keys in a document, but for those in arrays that begin with neither object nor array: vectors are long."""
    count = 0
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            count += len(one)
            waiting.extend([value for value in one.values() if type(value) in _CONTAINERS])
        elif type(one) is list and one and type(one[0]) in _CONTAINERS:
            waiting.extend(one)
    return count
