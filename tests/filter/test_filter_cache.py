"""What compiling may cost, and how much of it is kept."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from silverray.shard.filter import circuit
from silverray.shard.filter.cache import FilterCache, estimated_bytes
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.filter.expression import And, Not, OneOf, Or, Range
from silverray.shard.filter.simplify import simplified

RNG = random.Random(3)
RANGES = [sorted(RNG.randrange(-(2**40), 2**40) for _ in range(2)) for _ in range(50)]
MANY_RANGES = " or ".join(f"stamp between {low} and {high}" for low, high in RANGES)
MANY_EXCLUDED = "not (" + " or ".join(f'owner="x{number}"' for number in range(900)) + ")"


@pytest.mark.parametrize("text, most", [(MANY_RANGES, 5_000), (MANY_EXCLUDED, 5_000)])
def test_long_filters_make_few_nodes(catalog: Any, text: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    class Counted(circuit.Node):
        def __init__(self, *args: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*args)

    monkeypatch.setattr(circuit, "Node", Counted)
    compiled = catalog.compile(text)
    assert made <= most
    monkeypatch.undo()
    assert np.array_equal(catalog.shown(compiled.exact), catalog.shown(catalog.compile(text).exact))


def test_terms_of_one_field_are_joined(catalog: Any) -> None:
    def tree(text: str) -> Any:
        return catalog.compile(text).expression

    assert tree("stamp = 1 or adult or stamp = 2") == Or((OneOf("stamp", (1, 2)), OneOf("adult", (1,))))
    assert tree("stamp > 1 and stamp < 9 and stamp <= 5") == Range("stamp", 2, 5)
    assert tree("stamp > 5 and stamp < 3") == OneOf("stamp", ())
    assert tree("stamp < 5 or stamp between 3 and 8 or stamp > 20") == Or(
        (Range("stamp", None, 8), Range("stamp", 21, None))
    )
    assert tree("not stamp = 1 and stamp != 2") == Not(OneOf("stamp", (1, 2)))
    tags = "words any ('a') and words any ('b')"
    assert isinstance(tree(tags), And)


def test_simplifying_stops_at_what_it_cannot_join(catalog: Any) -> None:
    expression = Or((Range("stamp", 1, 2), Range("stamp", 4, 5)))
    assert simplified(expression, catalog.schema) == expression


def test_kept_filters_are_bounded_in_bytes(catalog: Any) -> None:
    calls: list[str | None] = []

    def compile(text: str | None, deadline: Any) -> Any:
        calls.append(text)
        return compile_filter(text, catalog.schema, catalog.layout)

    cache = FilterCache(compile, limit=100_000)
    short = cache.compile("adult")
    longs = [f"stamp in ({','.join(map(str, range(n, n + 300)))})" for n in range(20)]
    for text in longs:
        cache.compile(text)
        assert cache.find("adult") is short  # used last, so kept
        assert cache.size <= 100_000
    assert cache.find(longs[0]) is None
    assert cache.find(longs[-1]) is cache.compile(longs[-1])
    assert len(calls) == 21
    assert estimated_bytes(cache.compile(longs[-1])) > 300 * 8
