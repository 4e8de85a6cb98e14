"""The same data in a request table and in an impression table: bytes, and time to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from silverray.benchmarks.common.measure import interleave, ratio
from silverray.cluster.demo.movielens_requests import RequestFiles
from silverray.shard.schema.casts import one_array
from silverray.shard.train.batch import Batch
from silverray.shard.train.convert import COMPRESSION, to_impressions
from silverray.shard.train.format import ITEM, ITEMS, REQUEST, RequestFormat
from silverray.shard.train.items import ItemTable
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.parts import by_impression
from silverray.shard.train.requests import RequestTable

VALUE_BYTES = 8
"""Of an id or a length in a `KeyedJaggedTensor`."""


def compare_bytes(
    files: RequestFiles, format: RequestFormat, batches: Sequence[Batch], folder: Path
) -> list[dict[str, Any]]:
    """Write the requests once more as impressions, with the same Parquet settings.

    Args:
        files: MovieLens as requests.
        format: of the requests.
        batches: of one epoch.
        folder: for the table of impressions.

    Returns:
        Rows of a table: bytes as impressions and as requests, and how many times fewer these are. The user side is all
        columns but the items and their labels.
    """
    repeated = folder / "repeated.parquet"
    pq.write_table(to_impressions(pq.read_table(files.requests), format), repeated, compression=COMPRESSION)
    shown = {ITEM, ITEMS, *format.tasks}
    rows = {
        "user side in the file": (_column_bytes(repeated, shown), _column_bytes(files.requests, shown)),
        "user side, encoded, before compression": (
            _column_bytes(repeated, shown, compressed=False),
            _column_bytes(files.requests, shown, compressed=False),
        ),
        "whole file": (repeated.stat().st_size, files.requests.stat().st_size),
        "user side in the file, histories of each impression's moment": (
            _column_bytes(files.impressions, shown),
            _column_bytes(files.requests, shown),
        ),
        "user side as tensors, an epoch": (_tensor_bytes(map(by_impression, batches)), _tensor_bytes(batches)),
    }
    return [
        {"what": what, "impressions": many, "requests": few, "fewer": many / few} for what, (many, few) in rows.items()
    ]


def compare_reading(
    files: RequestFiles, format: RequestFormat, items: ItemTable, requests: int, folder: Path, rounds: int
) -> list[dict[str, Any]]:
    """Time the loader on the requests, and on the same impressions with a request each.

    Args:
        files: MovieLens as requests.
        format: of the requests.
        items: the catalog.
        requests: in a batch; batches of impressions have as many impressions.
        folder: for the table of impressions.
        rounds: timed epochs.
    """
    single = folder / "singles.parquet"
    rows = to_impressions(pq.read_table(files.requests), format)
    pq.write_table(_as_requests(rows, format), single, compression=COMPRESSION)
    many, few = RequestTable.open(single, format), RequestTable.open(files.requests, format)
    batch = round(requests * len(many) / len(few))
    loaders = {
        "by impression": RequestLoader(many, items, LoaderConfig(requests=batch)),
        "by request": RequestLoader(few, items, LoaderConfig(requests=requests)),
    }
    timings = interleave({name: partial(_drain, own) for name, own in loaders.items()}, rounds=rounds)
    slower = ratio(timings["by impression"], timings["by request"])
    return [
        {"what": name, **timing.seconds(1e-3, "ms"), "times": slower if name == "by impression" else 1.0}
        for name, timing in timings.items()
    ]


def _as_requests(rows: pa.Table, format: RequestFormat) -> pa.Table:
    """A request of its own for each impression."""
    offsets = pa.array(np.arange(len(rows) + 1), pa.int32())
    columns = {name: rows.column(name) for name in rows.column_names if name not in (ITEM, *format.tasks)}
    columns[REQUEST] = pa.array(np.arange(len(rows)))
    for name, source in {ITEMS: ITEM, **{task: task for task in format.tasks}}.items():
        columns[name] = pa.ListArray.from_arrays(offsets, one_array(rows.column(source)))
    return pa.table(columns)


def _drain(loader: RequestLoader) -> int:
    return sum(len(batch.times) for batch in loader.batches(0))


def _column_bytes(file: Path, others: set[str], *, compressed: bool = True) -> int:
    """Bytes of all columns but some."""
    metadata = pq.read_metadata(file)
    chunks = [
        metadata.row_group(group).column(number)
        for group in range(metadata.num_row_groups)
        for number in range(metadata.num_columns)
    ]
    return sum(
        chunk.total_compressed_size if compressed else chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] not in others
    )


def _tensor_bytes(batches: Iterable[Batch]) -> int:
    return sum(VALUE_BYTES * (len(batch.user.values()) + len(batch.user.lengths())) for batch in batches)
