"""From impressions to a request table and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from silverray.shard.parquet.table import ParquetTable
from silverray.shard.schema.casts import is_list, one_array
from silverray.shard.towers.jagged import Jagged
from silverray.shard.train.format import ITEM, ITEMS, REQUEST, TIME, USER, RequestFormat
from silverray.shard.train.grouping import group
from silverray.shard.train.impressions import ROW, Impressions

ROW_GROUP = 16_384
"""Requests in a row group of a request table: a run that goes on in the middle reads those around its place again
(decision 22.4), and smaller ones compress worse."""

COMPRESSION = "zstd"

REMEMBERED_SPANS = 8
"""For how long the id of a request may not come back; to remember all ids would need memory that grows with the file
(decision 22.1)."""


class Conversion(NamedTuple):
    """What was converted.

    Attributes:
        impressions: rows read.
        requests: rows written.
    """

    impressions: int
    requests: int


def convert(
    impressions: Path,
    format: RequestFormat,
    out: Path,
    *,
    span_s: int,
    row_group: int = ROW_GROUP,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Gather impressions into requests.

    Rows are in the order of time. Where they have a column `request`, those of one id are a request: they may lie
    apart, but within `span_s` seconds of the first, and say the same of the user. Otherwise the impressions of one user
    within `span_s` seconds of the first are a request, which gets a number and the user features of the first.
    Requests are written in the order of their first impressions. In memory are the impressions of the last `span_s`
    seconds, a block and a row group.

    Args:
        impressions: a Parquet file, or a folder of files in the order of their names; see
            `silverray.shard.train.format`.
        format: what its columns mean.
        out: the request table; what is there is replaced once the new one is complete.
        span_s: seconds, 1 or more.
        row_group: requests in a row group of the table.
        progress: called with impressions read and impressions in all.

    Raises:
        TableError: a column is missing or a value is wrong; the message names file, column and row.
        ValueError: a setting is out of range, or `out` is, or lies in, what is read.
    """
    if out.resolve().is_relative_to(impressions.resolve()):
        raise ValueError(f"out: expected a place outside of {impressions}, got {out}: it would be read as impressions")
    for name, value in {"span_s": span_s, "row_group": row_group}.items():
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    partial = out.with_name(f".{out.name}.partial")
    requests = 0
    source = Impressions(ParquetTable.open(impressions), format)
    try:
        with pq.ParquetWriter(partial, source.request_schema, compression=COMPRESSION) as writer:
            for table in _cut(_Gathering(source, span_s).tables(progress), row_group):
                writer.write_table(table)
                requests += len(table)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return Conversion(len(source), requests)


def to_impressions(requests: pa.Table, format: RequestFormat) -> pa.Table:
    """A request table as one row per impression, everything else repeated: what `convert` undoes."""
    counts = requests.column(ITEMS).combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    names = [name for name in (REQUEST, USER, TIME, *format.features) if name in requests.column_names]
    repeated = requests.select(names).take(pa.array(np.repeat(np.arange(len(requests)), counts)))
    for name, column in {ITEM: ITEMS, **{task: task for task in format.tasks}}.items():
        repeated = repeated.append_column(name, requests.column(column).combine_chunks().flatten())
    return repeated


class _Gathering:
    def __init__(self, source: Impressions, span_s: int) -> None:
        self._source, self._span_s = source, span_s
        self._key = REQUEST if source.has_request else USER
        self._ended: pa.Table | None = None
        self._number = 0

    def tables(self, progress: Callable[[int, int], None] | None) -> Iterator[pa.Table]:
        """After each block, the requests to which no later impression can belong."""
        held: pa.Table | None = None
        done = 0
        for block in self._source.blocks():
            done += len(block)
            held = block if held is None else pa.concat_tables([held, block])
            keys = held.column(self._key).combine_chunks().dictionary_encode().indices
            groups = group(
                keys.to_numpy(zero_copy_only=False).astype(np.int64),
                held.column(TIME).to_numpy(),
                self._span_s,
                complete=done == len(self._source),
            )
            yield self._requests(held.take(pa.array(groups.closed.values)), groups.closed)
            held = held.take(pa.array(groups.open))
            if progress is not None:
                progress(done, len(self._source))

    def _requests(self, rows: pa.Table, groups: Jagged) -> pa.Table:
        """One row for each group of impressions, which lie one after another in `rows`."""
        firsts = rows.take(pa.array(groups.offsets[:-1]))
        if self._source.has_request:
            for name in self._source.described:
                self._refuse_contradiction(rows, firsts, groups.lengths, name)
            self._refuse_again(firsts)
        else:
            numbers = np.arange(self._number, self._number + len(groups))
            firsts = firsts.append_column(REQUEST, pa.array(numbers))
            self._number += len(groups)
        lists = {ITEMS: ITEM, **{task: task for task in self._source.format.tasks}}
        offsets = pa.array(groups.offsets)
        schema = self._source.request_schema
        columns = [
            pa.LargeListArray.from_arrays(offsets, one_array(rows.column(lists[name])))
            if name in lists
            else firsts.column(name)
            for name in schema.names
        ]
        return pa.table(columns, schema=schema)

    def _refuse_again(self, firsts: pa.Table) -> None:
        """See that no request has ended before it began again."""
        if not len(firsts):
            return
        known = firsts.select([REQUEST, TIME, ROW])
        if self._ended is not None:
            oldest = firsts.column(TIME)[0].as_py() - REMEMBERED_SPANS * self._span_s
            kept = self._ended.filter(pc.greater_equal(self._ended.column(TIME), oldest))
            known = pa.concat_tables([kept, known])
        self._ended = known
        codes = one_array(known.column(REQUEST)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
        _, once = np.unique(codes, return_index=True)
        if len(again := np.setdiff1d(np.arange(len(codes)), once)):
            request, row = (known.column(name)[int(again[0])].as_py() for name in (REQUEST, ROW))
            expected = f"expected the impressions of request {request!r} within {self._span_s} seconds of the first"
            raise self._source.fault(REQUEST, row, f"{expected}, got one later")

    def _refuse_contradiction(self, rows: pa.Table, firsts: pa.Table, lengths: NDArray[np.int64], name: str) -> None:
        """See that all impressions of a request say the same of it."""
        told = one_array(rows.column(name))
        first = one_array(firsts.column(name)).take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
        if len(other := np.flatnonzero(_differ(told, first))):
            place = int(other[0])
            request, row = (rows.column(column)[place].as_py() for column in (REQUEST, ROW))
            said = f"{first[place].as_py()!r}, got {told[place].as_py()!r}"
            raise self._source.fault(name, row, f"expected what request {request!r} said before, {said}")


def _differ(values: pa.Array, others: pa.Array) -> NDArray[np.bool_]:
    """`[n]` bool, where two arrays of one type differ; null equals null."""
    if not is_list(values.type):
        unequal = pc.fill_null(pc.not_equal(values, others), False)
        uneven = pc.xor(values.is_null(), others.is_null())
        return np.asarray(pc.or_(unequal, uneven))
    lengths, wanted = (
        pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False) for array in (values, others)
    )
    differ: NDArray[np.bool_] = lengths != wanted
    same = pa.array(~differ)
    left, right = (pc.list_flatten(array.filter(same)) for array in (values, others))
    rows = np.repeat(np.flatnonzero(~differ), np.maximum(lengths[~differ], 0))
    differ[rows[np.asarray(pc.not_equal(left, right))]] = True
    return differ


def _cut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size`, the last one with what is left."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) < size:
            continue
        joined = pa.concat_tables(waiting)
        whole = len(joined) - len(joined) % size
        for start in range(0, whole, size):
            yield joined.slice(start, size)
        waiting = [joined.slice(whole)]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting)
