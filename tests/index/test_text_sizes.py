"""Sizes of stored texts, and replies that are refused before they are built."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.api import ReplyTooLarge, SearchReply, SearchRequest
from silverray.shard.index.payload import Payload
from silverray.shard.index.text_sizes import text_sizes, value_size
from silverray.shard.live.writes import Entry, Patch
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.searcher import ShardSearcher

TEXTS = ["", "é" * 3, None, "abcd", "x" * 1_000]
LISTS = [[], ["é", "xy"], None, ["a"] * 4, ["", "b" * 50]]


@pytest.mark.parametrize(
    ("type_", "values", "sizes"),
    [
        (pa.string(), TEXTS, [0, 6, 0, 4, 1_000]),
        (pa.large_string(), TEXTS, [0, 6, 0, 4, 1_000]),
        (pa.dictionary(pa.int8(), pa.string()), TEXTS, [0, 6, 0, 4, 1_000]),
        (pa.large_list(pa.large_string()), LISTS, [0, 4, 0, 4, 50]),
        (pa.list_(pa.string()), LISTS, [0, 4, 0, 4, 50]),
        (pa.list_(pa.int64()), [[], [1, 2], None, [3], [4]], [0] * 5),
        (pa.int64(), [1, 2, None, 3, 4], [0] * 5),
        (pa.string(), [None] * 5, [0] * 5),
        (pa.null(), [None] * 5, [0] * 5),
    ],
)
def test_sizes_are_those_of_the_values(type_: pa.DataType, values: list[Any], sizes: list[int]) -> None:
    whole = pa.array(values, type_)
    rows = np.array([4, 0, 1, 1, 3, 2])
    for column in (
        pa.chunked_array([whole]),
        pa.chunked_array([whole[:2], whole[2:2], whole[2:]]),
        pa.chunked_array([pa.concat_arrays([whole, whole])[5:]]),
    ):
        assert text_sizes(column, rows).tolist() == [sizes[row] for row in rows]
        assert text_sizes(column, rows[:0]).tolist() == []


def test_written_rows_count_as_they_are() -> None:
    table = pa.table({"t": pa.array(["a" * 10, "b" * 20, "c" * 30], pa.large_string())})
    payload = Payload(table, np.arange(3), None)
    payload.write({0: {"t": "x" * 100}}, {1: {}})
    slots = np.array([2, 0, 1])
    assert payload.text_bytes(["t"], slots) == 150 == sum(map(value_size, payload.fields(["t"], slots)["t"]))


@pytest.fixture
def live(tmp_path: Path) -> Iterator[ShardSearcher]:
    schema = Schema.parse("id: id\nvector: {dimension: 4, metric: ip}\nfields: {t: {type: category, filter: false}}")
    table = pa.table({"id": range(4), "t": ["a" * 100] * 4})
    publish(table, schema, tmp_path, vectors=np.eye(4, dtype=np.float32), version="v")
    searcher = ShardSearcher.open(tmp_path / "v", slack=1.0, max_reply_bytes=1_000)
    yield searcher
    assert searcher.updates is not None
    searcher.updates.close()


def test_what_does_not_fit_is_never_built_and_the_others_are_answered(
    live: ShardSearcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*requests: SearchRequest) -> list[Any]:
        return asyncio.run(live.search(requests))

    def request(k: int, *fields: str) -> SearchRequest:
        return SearchRequest(vectors=np.ones((1, 4), np.float32), k=k, fields=fields)

    built: list[int] = []
    fields = Payload.fields

    def count(payload: Payload, names: Any, slots: Any) -> Any:
        built.append(len(slots))
        return fields(payload, names, slots)

    monkeypatch.setattr(Payload, "fields", count)
    assert all(isinstance(reply, SearchReply) for reply in ask(request(4, "t"), request(4, "t"), request(2, "t")))
    built.clear()
    long, *others = ask(request(4, "t"), request(3, "t"), request(3, "t"), request(4), request(3, "t"))
    assert isinstance(long, ReplyTooLarge) and built == [9]
    assert "at most 1,000 bytes (limits.max_reply_bytes)" in str(long)
    assert [len(reply.keys) for reply in others] == [3, 3, 4, 3]
    assert others[0].fields == {"t": ["a" * 100] * 3} and others[2].fields == {}

    live.apply([Entry(1, Patch(2, {"t": "b" * 1_001}))])
    built.clear()
    (refused,) = ask(request(4, "t"))
    assert isinstance(refused, ReplyTooLarge) and built == []
    ranked = SearchRequest(vectors=np.ones((1, 4), np.float32), keys=np.array([0, 2]), fields=("t",))
    assert [type(one) for one in ask(ranked, request(1, "t"))] == [ReplyTooLarge, SearchReply]
