"""Seeded random filters, as text, against an evaluation of the same rows with pandas.

The generator makes its own trees, writes them as text and evaluates them on pandas object columns (Python's own
comparisons), so nothing but the language's definition is shared with the code under test.
"""

from __future__ import annotations

import datetime
import json
import math
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

FILTERS, CHUNKS = 2_400, 8
Mask = NDArray[np.bool_]
CATEGORIES, TAGS = ("color", "maker", "owner"), ("genres", "words")
HASHED = ("maker", "owner", "words")
NUMBERS = ("year", "stamp", "price", "grade", "released")
BOOLS = ("nsfw", "adult")
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass
class Leaf:
    field: str
    op: str
    values: list[Any]


@dataclass
class Tree:
    kind: str  # "and", "or" or "not"
    parts: list[Any]


class Generator:
    def __init__(self, rng: random.Random, rows: list[dict[str, Any]]) -> None:
        self.rng = rng
        self.rows = rows

    def tree(self, depth: int) -> Leaf | Tree:
        kind = self.rng.choice(["leaf", "and", "or", "not"]) if depth else "leaf"
        if kind == "leaf":
            return self.leaf()
        count = 1 if kind == "not" else self.rng.randrange(2, 4)
        return Tree(kind, [self.tree(depth - 1) for _ in range(count)])

    def leaf(self) -> Leaf:
        rng = self.rng
        field = rng.choice([*CATEGORIES, *TAGS, *NUMBERS, *BOOLS])
        operators = ["=", "!=", "in", "not in", "is null", "is not null"]
        if field in TAGS:
            operators = ["any", "all", "any", "all", "is null", "is not null"]
        elif field in NUMBERS:
            operators += ["<", "<=", ">", ">=", "between", "between"]
        elif field in BOOLS:
            operators += ["bare"] * 3
        op = rng.choice(operators)
        count = {"between": 2, "bare": 0, "is null": 0, "is not null": 0}.get(op, 1)
        if op in ("in", "not in", "any", "all"):
            count = rng.choice([1, 2, 3, 8, 40])
        if op == "all":
            count = rng.choice([1, 1, 2, 3])
        equality = op in ("=", "!=", "in", "not in")
        return Leaf(field, op, [self.value(field, equality) for _ in range(count)])

    def value(self, field: str, equality: bool) -> Any:
        rng = self.rng
        stored = rng.choice(self.rows)[field]
        if isinstance(stored, list):
            stored = rng.choice(stored) if stored else None
        if stored is None or (isinstance(stored, float) and not math.isfinite(stored)):
            stored = {"released": datetime.date(2000, 2, 29), "nsfw": True}.get(field, 3)
            if field in CATEGORIES or field in TAGS:
                stored = "unheard of"
        if field not in NUMBERS or rng.random() < 0.5:
            return stored
        if field == "released":
            return datetime.date.fromordinal(rng.randrange(640_000, 740_000))
        if field in ("year", "stamp") and equality:
            return float(stored) if field == "year" else rng.randrange(-60, 60)
        near = {"year": 2000, "stamp": 0, "price": 10, "grade": 2}[field]
        extremes = [-(2**63), 2**63 - 1, 1e300, -1e300, 9.3e18, -9.3e18, -0.0, 0]
        return rng.choice([near, near + 0.5, near - 0.25, -near, rng.choice(extremes)])

    def text(self, node: Leaf | Tree) -> str:
        if isinstance(node, Leaf):
            return self.leaf_text(node)
        parts = [self.text(part) for part in node.parts]
        for place, part in enumerate(node.parts):
            inner = part.kind if isinstance(part, Tree) else "leaf"
            needed = {"not": ("and", "or"), "and": ("or",), "or": ()}[node.kind]
            # Nested joins of one kind need no parentheses either: they are associative.
            if inner in needed or self.rng.random() < 0.1:
                parts[place] = f"({parts[place]})"
        if node.kind == "not":
            return f"{self.case('not')} {parts[0]}"
        return f" {self.case(node.kind)} ".join(parts)

    def leaf_text(self, leaf: Leaf) -> str:
        words = [self.literal(value) for value in leaf.values]
        op = " ".join(self.case(word) for word in leaf.op.split())
        if leaf.op == "bare":
            return leaf.field
        if leaf.op in ("in", "not in", "any", "all"):
            return f"{leaf.field} {op} ({', '.join(words)})"
        if leaf.op == "between":
            return f"{leaf.field} {op} {words[0]} {self.case('and')} {words[1]}"
        return f"{leaf.field} {op} {words[0]}" if words else f"{leaf.field} {op}"

    def case(self, word: str) -> str:
        return self.rng.choice([word, word, word.upper(), word.title()])

    def literal(self, value: Any) -> str:
        if isinstance(value, bool):
            return self.case("true" if value else "false")
        if isinstance(value, datetime.date):
            return f'date("{value.isoformat()}")'
        if isinstance(value, str):
            text = json.dumps(value, ensure_ascii=self.rng.random() < 0.5)
            single = text[1:-1].replace('\\"', '"').replace("'", "\\'")
            return self.rng.choice([text, f"'{single}'"])
        return repr(value)


class Oracle:
    """Evaluates trees on pandas object columns."""

    def __init__(self, rows: list[dict[str, Any]], dictionaries: dict[str, set[str]]) -> None:
        frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]})
        self.size = len(frame)
        self.columns = {name: frame[name].dropna() for name in frame}
        self.dictionaries = dictionaries

    def __call__(self, node: Leaf | Tree, grant: bool = False, positive: bool = True) -> Mask:
        """Evaluate; `grant` takes hashed terms under an even number of negations as true."""
        if isinstance(node, Tree):
            positive ^= node.kind == "not"
            parts = [self(part, grant, positive) for part in node.parts]
            if node.kind == "not":
                return ~parts[0]
            joined: Mask = (np.logical_and if node.kind == "and" else np.logical_or).reduce(parts)
            return joined
        column = self.columns[node.field]
        if node.op in ("is null", "is not null"):
            return self._mask(column.map(lambda _: True)) ^ (node.op == "is null")
        negated = node.op in ("!=", "not in")
        if grant and positive != negated and self._hashed(node):
            return np.full(self.size, not negated)
        return self._mask(self._leaf(node, column))

    def _leaf(self, leaf: Leaf, column: pd.Series[Any]) -> pd.Series[Any]:
        match leaf.op:
            case "bare":
                return column == True  # noqa: E712
            case "any" | "all":
                test = set.isdisjoint if leaf.op == "any" else set.issubset
                return column.map(lambda tags: test(set(leaf.values), tags)) ^ (leaf.op == "any")
            case "in" | "not in":
                return column.isin(leaf.values) ^ (leaf.op == "not in")
            case "!=":
                return column != leaf.values[0]
            case "between":
                return (column >= leaf.values[0]) & (column <= leaf.values[1])
        return COMPARE[leaf.op](column, leaf.values[0])

    def _mask(self, passed: pd.Series[Any]) -> Mask:
        mask = np.zeros(self.size, dtype=bool)
        mask[passed.index.to_numpy()] = passed.to_numpy(dtype=bool)
        return mask

    def _hashed(self, leaf: Leaf) -> bool:
        if leaf.field in HASHED:
            return True
        return leaf.field in self.dictionaries and not set(leaf.values) <= self.dictionaries[leaf.field]


@pytest.fixture(scope="module")
def oracle(catalog: Any) -> Oracle:
    published = catalog.rows[:1_201]
    colors = {row["color"] for row in published}
    genres = {tag for row in published for tag in row["genres"] or []}
    return Oracle(catalog.rows, {"color": colors, "genres": genres})


def test_the_layout_has_exact_and_hashed_fields(catalog: Any) -> None:
    kinds = {name: field.planes.kind for name, field in catalog.layout.fields.items()}
    assert [name for name in (*CATEGORIES, *TAGS) if kinds[name] == "hashed"] == list(HASHED)
    assert catalog.layout.fields["price"].planes.shift > 0


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_filters_agree_with_pandas(catalog: Any, oracle: Oracle, chunk: int) -> None:
    rng = random.Random(1_000 + chunk)
    generator = Generator(rng, catalog.rows)
    partial = 0
    for _ in range(FILTERS // CHUNKS):
        tree = generator.tree(rng.randrange(5))
        text = generator.text(tree)
        truth = oracle(tree) & catalog.live
        compiled = catalog.compile(text)
        bits = catalog.bits(compiled.exact)
        assert not (truth & ~bits).any(), f"a match is lost by the planes: {text}"
        assert np.array_equal(catalog.shown(compiled.exact), truth), text
        bloom = catalog.shown(compiled.bloom)
        assert not (truth & ~bloom).any(), f"a match is lost in bloom mode: {text}"
        # Whatever the planes said of hashed terms, the rest of the filter, and so every NOT, holds exactly.
        assert not (bloom & ~oracle(tree, grant=True)).any(), f"bloom mode shows what is excluded: {text}"
        partial += 0 < truth.sum() < len(truth)
    assert partial > FILTERS // CHUNKS // 2


@pytest.mark.parametrize("field, op", [("maker", "="), ("owner", "="), ("words", "any"), ("color", "=")])
def test_bloom_mode_never_shows_a_negated_term(catalog: Any, oracle: Oracle, field: str, op: str) -> None:
    """Each item that has an excluded value is left out, although hashed planes alone cannot tell."""
    rng = random.Random(3)
    generator = Generator(rng, catalog.rows)
    for _ in range(50):
        excluded = Leaf(field, op, [generator.value(field, equality=True)])
        wanted = Leaf("words", "any", [generator.value("words", equality=True) for _ in range(9)])
        tree = Tree("and", [wanted, Tree("not", [excluded])])
        bloom = catalog.shown(catalog.compile(generator.text(tree)).bloom)
        assert not (bloom & oracle(excluded)).any()
        assert not (oracle(tree) & catalog.live & ~bloom).any()
