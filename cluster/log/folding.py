"""Folding a store's log into the rows of a new version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.cluster.log.claim import open_claimed
from silverray.cluster.log.entries import read_entries
from silverray.cluster.log.store import LogReader
from silverray.shard.live.fold import Folded, fold
from silverray.shard.live.writes import Write
from silverray.shard.schema.schema import Schema

_LIMIT = 10_000
"""Writes of a page: those of the longest body. Pages end by their bytes as well, and a longer one saves nothing."""


class FoldedLog(NamedTuple):
    """Rows that include a log's writes.

    Attributes:
        rows: with the writes folded in.
        seq: number of the last of these writes.
    """

    rows: Folded
    seq: int


def fold_log(
    store: Path,
    log: Path | None,
    after: int,
    items: pa.Table,
    schema: Schema,
    vectors: NDArray[np.float32] | None,
    space: str,
) -> FoldedLog:
    """Fold the log that a store's updates are in, as long as it is now, into rows.

    The service may go on writing.

    Args:
        store: the snapshot store.
        log: the log's file, if no longer where the store says.
        after: number of the last write that the rows include.
        items: as for `fold`, which has the other arguments too.

    Raises:
        ConfigError: the store has no log, or `log` is another.
        LogGap: the log does not hold all writes after `after`, or ends before it.
        LogUnreadable: a record is damaged, or of a later release.
        LogUnavailable: the log's file cannot be read.
        ValueError: the rows are not good.
    """
    with closing(open_claimed(store, log)) as reader:
        last = reader.state().last
        return FoldedLog(fold(items, schema, vectors, _writes(reader, after, last), space), last)


def _writes(log: LogReader, after: int, last: int) -> Iterator[Write]:
    """The writes behind a number, up to the last."""
    while (page := log.read(after, _LIMIT)).records and after < last:
        for record in page.records:
            yield from (entry.write for entry in read_entries(record, after) if entry.seq <= last)
            after = record.seq
