"""Stored values: reading Python's values strictly, to what Arrow's columns are read to."""

import datetime
from typing import Any

import pyarrow as pa
import pytest

from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.casts import ARROW_TYPES
from silverray.shard.schema.columns import ColumnError
from silverray.shard.schema.schema import Field, Schema
from silverray.shard.schema.values import _kept_hash, read_values

VALUES: dict[str, list[Any]] = {
    "category": ["b", None, "a", "Österreich", "b"],
    "tags": [["x", "y", "x"], None, [], ["z"]],
    "int": [1, None, -(2**63), 2**63 - 1, 0],
    "float": [0.5, None, -1e300, 7.0],
    "bool": [True, None, False],
    "date": [datetime.date(2001, 5, 31), None, datetime.date(1960, 1, 1), datetime.date(1, 1, 1)],
}


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("type_", VALUES)
def test_values_are_read_as_from_arrow(type_: Any, nullable: bool) -> None:
    values = [value for value in VALUES[type_] if nullable or value is not None]
    spec = f"f: {{type: {type_}, nullable: {str(nullable).lower()}}}"
    schema = Schema.parse(f"{{id: item, vector: {{dimension: 2, metric: ip}}, fields: {{{spec}}}}}")
    table = pa.table({"f": pa.array(values, ARROW_TYPES[type_])})
    expected = read_columns(table, schema).fields["f"].to_tensors()
    found = read_values("f", values, schema.fields["f"]).to_tensors()
    assert {name: (part.dtype, part.tolist()) for name, part in found.items()} == {
        name: (part.dtype, part.tolist()) for name, part in expected.items()
    }


@pytest.mark.parametrize(
    ("type_", "bad"),
    [
        ("category", 7),
        ("tags", "x"),
        ("tags", ["x", None]),
        ("int", 1.0),
        ("int", True),
        ("int", 2**63),
        ("float", "1"),
        ("bool", 1),
        ("date", "2001-05-31"),
        ("date", datetime.datetime(2001, 5, 31)),
        ("category", "\ud800"),
    ],
)
def test_other_values_are_refused(type_: Any, bad: object) -> None:
    with pytest.raises(ValueError):
        read_values("f", [*VALUES[type_][:2], bad], Field(type=type_, nullable=True))


def test_a_missing_value_names_its_row() -> None:
    with pytest.raises(ColumnError, match="column f, row 1: expected int, got NoneType"):
        read_values("f", [1, None], Field(type="int"))


def test_no_values() -> None:
    for type_ in VALUES:
        column = read_values("f", [], Field(type=type_, nullable=True))  # type: ignore[arg-type]
        assert len(column.values) == 0


def test_long_texts_are_not_kept() -> None:
    kept = _kept_hash.cache_info().currsize
    for type_, value in (("category", "x" * 1_000_003), ("tags", ["y" * 1_000_003])):
        read_values("f", [value], Field(type=type_))  # type: ignore[arg-type]
    assert _kept_hash.cache_info().currsize == kept
