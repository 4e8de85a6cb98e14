"""The longest filters of every kind take a bounded number of steps, and the deadline is looked at all along."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from silverray.shard.api import DeadlineExceeded, FilterError
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.filter.deadline import Deadline
from silverray.shard.filter.lexer import MAX_BYTES


def longest(part: Callable[[int], str], separator: str = " or ", head: str = "", tail: str = "") -> str:
    """As many parts as a filter may have."""
    parts: list[str] = []
    room = MAX_BYTES - len(head) - len(tail)
    for number in itertools.count():
        room -= len(part(number)) + len(separator)
        if room < 0:
            return head + separator.join(parts) + tail
        parts.append(part(number))
    raise AssertionError


def stamp(number: int) -> int:
    return random.Random(number).randrange(-(2**40), 2**40)


def lists(field: str, operator: str, value: Callable[[int], object], count: int) -> Callable[[int], str]:
    """Parts that are lists of so many values."""

    def part(number: int) -> str:
        values = range(number * count, (number + 1) * count)
        return f"{field} {operator} ({','.join(str(value(each)) for each in values)})"

    return part


def negated(part: Callable[[int], str]) -> Callable[[int], str]:
    return lambda number: f"not {part(number)}"


def nested(number: int) -> str:
    text = "adult"
    for level in range(60):
        text = f"({text} {'or' if level % 2 else 'and'} words any ('{number}.{level}'))"
    return text


MOST_CALLS = 240_000
"""Calls of functions that the longest filter may take to compile; 4 to 10 million are a second."""
MOST_CALLS_UNLOOKED = 40_000
"""Calls between two looks at the deadline: some milliseconds."""

LISTS = {
    f"{field} {operator} {count}": lists(field, operator, value, count)
    for field, operator, value in [
        ("words", "any", "'{}'".format),
        ("words", "all", "'{}'".format),
        ("genres", "all", "'{}'".format),
        ("owner", "in", "'{}'".format),
        ("year", "in", lambda number: 2 * number),
        ("stamp", "in", stamp),
        ("price", "in", "{}.5".format),
        ("released", "in", lambda number: f'date("{1900 + number // 300}-{number % 12 + 1:02}-{number % 28 + 1:02}")'),
    ]
    for count in (1, 2, 8, 240)
}
SHAPES = {
    **{f"{name}, or": longest(part) for name, part in LISTS.items()},
    **{f"{name}, and not": longest(negated(part), " and ") for name, part in LISTS.items()},
    **{f"{name}, or not": longest(negated(part)) for name, part in LISTS.items()},
    "excluded": longest(lambda number: f'owner="x{number}"', head="not (", tail=")"),
    "ranges": longest(lambda number: f"stamp between {stamp(number)} and {stamp(number) + 999}"),
    "ranges within": longest(lambda number: f"(stamp > {stamp(number)} and not genres any ('war', 'g{number}'))"),
    "ranges without": longest(lambda number: f"(not stamp > {stamp(number)} and (grade < {number}.5 or adult))"),
    "nested": longest(nested),
    "bare": longest(lambda number: "adult"),
    "escapes": longest(lists("owner", "in", "'\\n\\u0041{}'".format, 240)),
    "one string": "owner = '" + "\\u0041" * 2_700 + "'",
    "same values": longest(lists("year", "in", lambda number: number % 7, 1_000)),
}


class Counted(Deadline):
    """Never comes; counts calls of Python's functions, a machine-independent measure of work, between looks at it."""

    def __init__(self) -> None:
        super().__init__(float("inf"))
        self.calls = self.since = self.gap = 0

    def count(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            self.since += 1

    def check(self) -> None:
        self.gap, self.since = max(self.gap, self.since), 0


class Looks(Deadline):
    """Comes after so many looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(float("inf"))
        self.left = looks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise DeadlineExceeded("over")


@pytest.mark.parametrize("name", SHAPES)
def test_the_longest_filters_take_bounded_steps(catalog: Any, name: str) -> None:
    deadline = Counted()
    sys.setprofile(deadline.count)
    try:
        compile_filter(SHAPES[name], catalog.schema, catalog.layout, deadline)
    except FilterError as error:
        assert "instructions" in error.message
    finally:
        sys.setprofile(None)
    assert deadline.calls < MOST_CALLS
    assert max(deadline.gap, deadline.since) < MOST_CALLS_UNLOOKED


@pytest.mark.parametrize("name", SHAPES)
def test_a_deadline_ends_compiling_wherever_it_comes(catalog: Any, name: str) -> None:
    for looks in (0, 10, 1_000, 4_000):
        deadline = Looks(looks)
        try:
            compile_filter(SHAPES[name], catalog.schema, catalog.layout, deadline)
        except DeadlineExceeded:
            assert deadline.left < 0
        except FilterError:
            assert deadline.left >= 0
        else:
            assert deadline.left >= 0
