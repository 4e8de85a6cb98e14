"""From the log's records to its entries."""

from __future__ import annotations

from silverray.router.errors import LogGap, LogUnreadable
from silverray.router.writes.log import LogRecord
from silverray.shard.live.writes import Entry, decode


def read_entries(record: LogRecord, after: int) -> list[Entry]:
    """Decode a record.

    Args:
        record: the one that holds the write `after + 1`.
        after: number of the last write that is not wanted.

    Raises:
        LogGap: the record begins later.
        LogUnreadable: it is damaged, or of another format.
    """
    first = record.seq - record.size + 1
    if first > after + 1:
        raise LogGap(f"the log has a gap behind {after}, before {first}")
    try:
        writes = decode(record.body)
    except ValueError as error:
        raise LogUnreadable(f"writes {first} to {record.seq} cannot be read: {error}") from error
    if len(writes) != record.size:
        raise LogUnreadable(f"writes {first} to {record.seq} cannot be read: the record holds {len(writes)}")
    return [Entry(seq, write) for seq, write in enumerate(writes, first) if seq > after]
