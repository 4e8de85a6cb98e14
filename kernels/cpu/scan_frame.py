"""What the scan kernel for CPUs is called with: addresses and sizes, all int64, in named tuples that Numba reads.

Letters: N slots, C clusters, Q queries, U programs, L instructions, T threads.
"""

from __future__ import annotations

from typing import NamedTuple

from silverray.kernels.programs import MAX_STACK
from silverray.kernels.rows import LANES, WORDS

CODES, FLOATS, BFLOATS = 0, 1, 2
"""What is scored: codes, or stored vectors exactly."""
PENDING = 192
"""Most slots that wait to be scored; they are asked for from memory when they are put there."""
BLOCK = 64
"""Words of a list that are evaluated at a time."""
LEVEL = BLOCK + 2 * WORDS
"""Words of one place of the stack."""
SCRATCH = MAX_STACK * LEVEL + 3 * PENDING // 2 + 4 * WORDS
"""Words that a worker needs beside its buffers."""
SLACK = 512
"""Places of a buffer beside twice those that are kept."""


class Lists(NamedTuple):
    """The rows of a shard, their order and their filter bits: addresses and sizes.

    Attributes:
        kind: `CODES`, `FLOATS` or `BFLOATS`.
        rows: address of `[N]` rows of codes or vectors, each a multiple of 64 bytes (32 for bfloat16).
        stride: bytes from row to row.
        packed: 1 where `dot_run` takes the rows.
        chunks: 64-byte chunks of a row of codes; 16-lane chunks of a vector.
        slots: N.
        scales: address of `[N]` float32; only with codes.
        keys: address of `[N]` int64.
        offsets: address of `[C + 1]` int64.
        clusters: C.
        planes: address of the planes, rows of `words` int64.
        words: a multiple of 8.
    """

    kind: int
    rows: int
    stride: int
    packed: int
    chunks: int
    slots: int
    scales: int
    keys: int
    offsets: int
    clusters: int
    planes: int
    words: int


class Batch(NamedTuple):
    """What is asked of the lists: addresses and sizes.

    Attributes:
        programs: address of `[U, length]` int32.
        program_count: U.
        length: L.
        filters: address of `[Q]` int64, the program of each query.
        size: Q.
        queries: address of `[Q]` rows of query bytes or floats, padded with zeros.
        stride: bytes from query to query.
        scales: address of `[Q]` float32; only with codes, as are `sums` and `bases`.
        sums: address of `[Q]` int64 sums of the query bytes.
        bases: address of `[Q, C]` float32 `q·centroid`.
        probes: address of `[Q]` rows of int64 clusters, -1 is none.
        columns: probes from query to query.
        keep: how many slots to keep of each query.
    """

    programs: int
    program_count: int
    length: int
    filters: int
    size: int
    queries: int
    stride: int
    scales: int
    sums: int
    bases: int
    probes: int
    columns: int
    keep: int


class Work(NamedTuple):
    """Where a scan works: addresses and sizes.

    Attributes:
        threads: T.
        capacity: places of a buffer, a multiple of 16 and at least keep + 16.
        ranks: address of `[T, Q, capacity]` int32.
        slots: address of `[T, Q, capacity]` int32.
        counts: address of `[T, Q]` int64.
        thresholds: address of `[T, Q]` int32.
        pairs: address of int64, one for each probe: the probes sorted by tile.
        scratch: address of `[T, SCRATCH]` int64.
    """

    threads: int
    capacity: int
    ranks: int
    slots: int
    counts: int
    thresholds: int
    pairs: int
    scratch: int


class Frame(NamedTuple):
    """A scan."""

    lists: Lists
    batch: Batch
    work: Work


def capacity_for(keep: int) -> int:
    """Places of a query's buffer in one worker: a multiple of 16."""
    return -(-(2 * keep + SLACK) // LANES) * LANES


def work_sizes(threads: int, count: int, probes: int, keep: int) -> tuple[int, ...]:
    """Bytes of the parts of `Work`, from `ranks` on."""
    buffers, each = threads * count * capacity_for(keep) * 4, threads * count
    return buffers, buffers, 8 * each, 4 * each, 8 * count * probes, 8 * threads * SCRATCH
