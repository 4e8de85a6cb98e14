"""Whatever a snapshot holds is written out: no value keeps a shard from answering."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.api import SnapshotError
from silverray.shard.index.payload import Payload, widen
from silverray.shard.schema.json_values import json_values
from silverray.shard.schema.schema import Schema

BAD_BYTES = pa.array([b"a", b"b\xff"])
BAD_TEXT = pa.StringArray.from_buffers(2, BAD_BYTES.buffers()[1], BAD_BYTES.buffers()[2])


def dates(*days: int) -> Any:
    return pa.array(days, pa.int32()).cast(pa.date32())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (dates(0, 2_932_896, -719_162), ["1970-01-01", "9999-12-31", "0001-01-01"]),
        (dates(0, 2_932_897), ["1970-01-01", "+10000-01-01"]),
        (dates(3_000_000, 2**31 - 1), ["+10183-09-21", "+5881580-07-11"]),
        (
            dates(-719_163, -719_528, -719_529, -(2**31)),
            ["+0000-12-31", "+0000-01-01", "-0001-12-31", "-5877641-06-23"],
        ),
        (dates(1, 3_000_000).dictionary_encode(), ["1970-01-02", "+10183-09-21"]),
        (pa.array([5, 3_000_000 * 86_400_000 + 7]).cast(pa.date64()), ["1970-01-01", "+10183-09-21"]),
        (BAD_TEXT, ["a", "b\ufffd"]),
        (BAD_TEXT.cast(pa.large_string()), ["a", "b\ufffd"]),
        (pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), BAD_TEXT), [["a", "b\ufffd"]]),
        (pa.array([0.5, float("nan"), float("inf"), None]), [0.5, None, None, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array(["a", None]).cast(pa.string_view()), ["a", None]),
        (pa.array([2**62], pa.int64()).cast(pa.timestamp("s")), [None]),
    ],
)
def test_every_value_has_a_form(array: Any, expected: list[Any]) -> None:
    assert json_values(pa.chunked_array([array])) == expected


def test_written_values_are_json_too() -> None:
    payload = Payload(pa.table({"d": dates(0, 3_000_000)}), np.arange(2), None)
    payload.write({0: {"d": date(2001, 5, 31)}}, {})
    assert payload.fields(["d"], np.arange(2)) == {"d": ["2001-05-31", "+10183-09-21"]}


def widened(type_: str, array: Any) -> list[Any]:
    schema = Schema.parse(f"{{id: id, vector: {{dimension: 2, metric: ip}}, fields: {{f: {{type: {type_}}}}}}}")
    return list(widen(pa.table({"f": array}), schema).column("f").to_pylist())


def test_columns_of_older_versions_become_wide() -> None:
    assert widened("date", pa.array([86_400_005, -1]).cast(pa.date64())) == [date(1970, 1, 2), date(1969, 12, 31)]
    assert widened("category", pa.array(["a", "b"]).dictionary_encode()) == ["a", "b"]
    with pytest.raises(SnapshotError, match="column f: takes no live writes, publish the items again: Integer value"):
        widened("int", pa.array([2**64 - 1], pa.uint64()))
