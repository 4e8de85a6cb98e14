"""How close the scan kernel comes to the memory's speed when its lists come from memory, not from a cache.

Letters: N slots, D dimensions, C clusters, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.benchmarks.common.machine import readers, with_threads
from silverray.benchmarks.common.measure import Timing, interleave, ratio
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.scan.allocations import count_allocations
from silverray.kernels.programs import Opcode, instruction
from silverray.kernels.scan import scan
from silverray.shard.filter.layout import LIVE
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.ladder import coarse_keep

QUERIES = 64
"""The largest batch of a router; with as many clusters each, all lists are read once."""
QUERIES_PER_LIST = (1, 4, 16)
"""With one the memory is the bound, with 16 the arithmetic: what sharing a read is worth."""
KEEP = coarse_keep(100)
EVICT_BYTES = 256 << 20
"""Eight times a last-level cache of 32 MiB; where a machine's is larger than this, it must grow."""
EVERYTHING = instruction(Opcode.LOAD, LIVE)
COLUMNS = {
    "what": "{what}",
    "threads": "{threads}",
    "ms": "{ms_p50:.2f}",
    "p20": "{ms_p20:.2f}",
    "p80": "{ms_p80:.2f}",
    "GB/s": "{gigabytes_s:.1f}",
    "of the memory's": "{of_read:.0%}",
    "ns per score": "{ns_per_score:.2f}",
}


BATCHES = (1, 64, 512)
"""Alone, a router's batch, and that of embedded search."""
PROBES = 8
"""Any number would do: allocations must not depend on what is visited."""
ALLOCATIONS = {"queries": "{queries:,}", "by PyTorch": "{torch:,}", "by Numba": "{numba:,}"}


class Work(NamedTuple):
    """A call and what it costs: the bytes that must be read and the scores that must be made."""

    call: Callable[[], object]
    size: int
    scores: int | None


def add_roofline(report: Report, name: str, lists: InvertedLists, threads: tuple[int, ...], rounds: int) -> None:
    """Add a table that compares the scan of all lists with plain sums over the same codes, and one of allocations.

    Every list is read once from memory: 64 queries each probe clusters that no other probes, or that a few others
    probe too. A row's bytes are the codes (N·D), the scales (4·N) and the filter's bits (N / 8 a query of the
    list); what the kernel keeps (candidates) is not counted. Between two calls 256 MiB of other memory is read, so
    that no list comes from a cache.

    Args:
        report: where the table goes.
        name: of the data set.
        lists: of the index.
        threads: numbers of threads to measure with.
        rounds: how often each row is timed.
    """
    rows = [row for count in threads for row in _measure(lists, count, rounds)]
    report.table(f"{name}: the scan of all lists against the memory", COLUMNS, rows)
    counted = [{"queries": queries} | _allocations(lists, queries) for queries in BATCHES]
    report.table(f"{name}: memory allocations of one call of the scan", ALLOCATIONS, counted)


def _measure(lists: InvertedLists, threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    codes = _flat(lists.codes)
    reads = {f"read: {kind}": Work(call, codes.nbytes, None) for kind, call in readers(codes, threads).items()}
    scans = {f"scan, queries a list: {share}": _scan_all(lists, share, threads) for share in QUERIES_PER_LIST}
    timings = _timed(reads | scans, threads, rounds)
    fastest = min(reads, key=lambda what: timings[what].p50_s)
    for what, work in {fastest: reads[fastest], **scans}.items():
        timing = timings[what]
        yield {
            "what": what,
            "threads": threads,
            **timing.seconds(1e-3, "ms"),
            "bytes": work.size,
            "gigabytes_s": work.size / timing.p50_s / 1e9,
            # Seconds a byte against seconds a byte, round by round.
            "of_read": ratio(timings[fastest], timing) * work.size / reads[fastest].size,
            "ns_per_score": None if work.scores is None else timing.p50_s / work.scores * 1e9,
        }


def _timed(works: Mapping[str, Work], threads: int, rounds: int) -> dict[str, Timing]:
    evict = readers(np.zeros(EVICT_BYTES // 8, np.int64), threads)["torch int64"]
    calls: dict[str, Callable[[], object]] = {}
    for what, work in works.items():
        calls[f"evict before {what}"] = evict
        calls[what] = work.call
    return interleave(calls, rounds=rounds)


def _flat(codes: Tensor) -> NDArray[np.int8]:
    """The codes as they lie in memory, gaps between rows included; the last few that fill no whole word left out."""
    size = (len(codes) - 1) * codes.stride(0) + codes.shape[1]
    flat: NDArray[np.int8] = codes.as_strided((size // 8 * 8,), (1,)).numpy()
    return flat


def _scan_all(lists: InvertedLists, queries_per_list: int, threads: int) -> Work:
    count = len(lists)
    probes = _probes(len(lists.centroids), queries_per_list, torch.Generator().manual_seed(0))
    size = count * (lists.codes.stride(0) + 4) + count // 8
    return Work(with_threads(_scanning(lists, probes), threads), size, queries_per_list * count)


def _allocations(lists: InvertedLists, queries: int) -> dict[str, int]:
    generator = torch.Generator().manual_seed(0)
    probes = torch.stack([torch.randperm(len(lists.centroids), generator=generator)[:PROBES] for _ in range(queries)])
    return count_allocations(_scanning(lists, probes))._asdict()


def _scanning(lists: InvertedLists, probes: Tensor) -> Callable[[], object]:
    """A scan of the probed lists, unfiltered, by random queries; all that it is given is made before."""
    queries = torch.randn(len(probes), lists.codes.shape[1], generator=torch.Generator().manual_seed(1))
    queries = torch.nn.functional.normalize(queries)
    scores = queries @ lists.centroids.T
    programs, filters = torch.tensor([[EVERYTHING]], dtype=torch.int32), torch.zeros(len(probes), dtype=torch.int64)
    return lambda: scan(
        lists.codes, lists.scales, lists.keys, lists.offsets, lists.planes, programs, filters, queries, probes,
        scores, KEEP,
    )  # fmt: skip


def _probes(clusters: int, queries_per_list: int, generator: torch.Generator) -> Tensor:
    """`[Q, P]` clusters; each is probed by `queries_per_list` of the queries, and by each of them once."""
    order = torch.randperm(clusters, generator=generator)
    width = -(-clusters // QUERIES)
    dealt = torch.nn.functional.pad(order, (0, width * QUERIES - clusters), value=-1).reshape(QUERIES, width)
    return torch.cat([dealt.roll(shift, 0) for shift in range(queries_per_list)], dim=1)
