"""The truth table of every operator, missing values included, from text to shown items."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from silverray.kernels.bits import transpose_bits
from silverray.kernels.programs import evaluate_programs
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.filter.verification import matches
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.schema import Schema

SCHEMA = Schema.parse(
    """
    id: item
    vector: {dimension: 4, metric: ip}
    fields:
      c: {type: category, nullable: true}
      t: {type: tags, nullable: true}
      n: {type: int, nullable: true}
      f: {type: float, nullable: true}
      b: {type: bool, nullable: true}
      d: {type: date, nullable: true}
      m: {type: int}
    """
)
NAN, INF = float("nan"), float("inf")
# Rows:     0      1     2     3
TABLE = pa.table(
    {
        "c": pa.array(["a", "b", None, ""]),
        "t": pa.array([["x", "y"], ["y"], None, []], pa.list_(pa.string())),
        "n": pa.array([1, 2, None, 3]),
        "f": pa.array([0.5, -0.0, NAN, INF]),
        "b": pa.array([True, False, None, True]),
        "d": pa.array([datetime.date(2001, 5, 1), datetime.date(1969, 12, 31), None, datetime.date(2024, 2, 29)]),
        "m": pa.array([1, 2, 3, 4]),
    }
)
CASES: list[tuple[str, list[int]]] = [
    ("c = 'a'", [0]),
    ("c = 'z'", []),
    ("c = ''", [3]),
    ("c != 'a'", [1, 3]),
    ("c in ('a', 'b', 'z')", [0, 1]),
    ("c not in ('a', 'z')", [1, 3]),
    ("not c = 'a'", [1, 2, 3]),
    ("not c != 'a'", [0, 2]),
    ("not c in ('a', 'b')", [2, 3]),
    ("c is null", [2]),
    ("c is not null", [0, 1, 3]),
    ("not c is null", [0, 1, 3]),
    ("t any ('x')", [0]),
    ("t any ('x', 'y', 'z')", [0, 1]),
    ("t any ('z')", []),
    ("t all ('y')", [0, 1]),
    ("t all ('x', 'y')", [0]),
    ("t all ('y', 'z')", []),
    ("not t any ('x')", [1, 2, 3]),
    ("not t all ('x', 'y')", [1, 2, 3]),
    ("t is null", [2]),
    ("t is not null", [0, 1, 3]),
    ("n = 2", [1]),
    ("n = 2.0", [1]),
    ("n != 2", [0, 3]),
    ("n in (1, 3, 99)", [0, 3]),
    ("n not in (1, 99)", [1, 3]),
    ("n < 2", [0]),
    ("n < 2.5", [0, 1]),
    ("n <= 2", [0, 1]),
    ("n > 2", [3]),
    ("n >= 2", [1, 3]),
    ("n >= -99", [0, 1, 3]),
    ("n < 99", [0, 1, 3]),
    ("n > 99", []),
    ("n between 2 and 3", [1, 3]),
    ("n between 3 and 2", []),
    ("not n between 2 and 3", [0, 2]),
    ("not n < 2", [1, 2, 3]),
    ("n is null", [2]),
    ("f = 0.5", [0]),
    ("f = 0", [1]),
    ("f = -0.0", [1]),
    ("f != 0", [0, 3]),
    ("f in (0, 0.5)", [0, 1]),
    ("f not in (0.5)", [1, 3]),
    ("f < 0", []),
    ("f <= 0", [1]),
    ("f < 0.5", [1]),
    ("f <= 0.5", [0, 1]),
    ("f > 0", [0, 3]),
    ("f > 1e308", [3]),
    ("f >= 0", [0, 1, 3]),
    ("f between 0 and 1", [0, 1]),
    ("not f >= 0", [2]),
    ("f is null", [2]),
    ("f is not null", [0, 1, 3]),
    ("b", [0, 3]),
    ("not b", [1, 2]),
    ("b = true", [0, 3]),
    ("b = false", [1]),
    ("b != true", [1]),
    ("b in (true, false)", [0, 1, 3]),
    ("b not in (true)", [1]),
    ("b not in (true, false)", []),
    ("b is null", [2]),
    ("d = date('2001-05-01')", [0]),
    ("d != date('2001-05-01')", [1, 3]),
    ("d in (date('1969-12-31'), date('2024-02-29'))", [1, 3]),
    ("d < date('2001-05-01')", [1]),
    ("d <= date('2001-05-01')", [0, 1]),
    ("d > date('2001-05-01')", [3]),
    ("d >= date('2001-05-01')", [0, 3]),
    ("d between date('1970-01-01') and date('2023-01-01')", [0]),
    ("not d >= date('1970-01-01')", [1, 2]),
    ("d is not null", [0, 1, 3]),
    ("m is null", []),
    ("m is not null", [0, 1, 2, 3]),
    ("m != 2", [0, 2, 3]),
    ("not m > 2", [0, 1]),
    ("n = 1 or c is null and not b", [0, 2]),
    ("(n = 1 or c is null) and not b", [2]),
]


@pytest.fixture(scope="module", params=["published", "written later"])
def searched(request: pytest.FixtureRequest) -> Any:
    """The rows, with planes laid out for them, or for a catalog that held none of their values."""
    columns = read_columns(TABLE, SCHEMA)
    published = columns.take(torch.arange(4 if request.param == "published" else 0))
    layout = PlaneLayout.choose(SCHEMA, published)
    return columns, layout, transpose_bits(layout.encode(columns), layout.rows)


@pytest.mark.parametrize("mode", ["exact", "bloom"])
@pytest.mark.parametrize("text, rows", CASES)
def test_truth_table(searched: Any, text: str, rows: list[int], mode: str) -> None:
    columns, layout, planes = searched
    plan = getattr(compile_filter(text, SCHEMA, layout), mode)
    bits = int(evaluate_programs(planes, torch.from_numpy(plan.program)[None]).item())
    slots = torch.tensor([slot for slot in range(64) if bits >> slot & 1], dtype=torch.int64)
    if plan.check is not None:
        slots = slots[matches(plan.check, columns, planes, slots)]
    if mode == "exact" or "not" in text:
        assert slots.tolist() == rows
    assert set(rows) <= set(slots.tolist())


@pytest.mark.parametrize("text, rows", CASES)
def test_verification_alone(text: str, rows: list[int]) -> None:
    columns = read_columns(TABLE, SCHEMA)
    layout = PlaneLayout.choose(SCHEMA, columns)
    expression = compile_filter(text, SCHEMA, layout).expression
    assert expression is not None
    slots = torch.tensor([3, 1, 0, 2, 1])
    found = matches(expression, columns, torch.zeros(0, 1, dtype=torch.int64), slots)
    assert found.tolist() == np.isin(slots.numpy(), rows).tolist()
