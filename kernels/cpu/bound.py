"""Searching a bound index on a CPU: one call of a kernel from vectors to slots, whatever is planned for one query.

Letters: N slots, D dimensions, C clusters, Q queries, U programs, L instructions, T threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray
from torch import Tensor

from silverray.kernels.bound import Index, Searched
from silverray.kernels.checks import check
from silverray.kernels.cpu import probes
from silverray.kernels.cpu.centroids import Centroids, block_scratch, coded_centroids
from silverray.kernels.cpu.jit import inlined, kernel
from silverray.kernels.cpu.launch import laid_out, padded_width, scratch, use_threads
from silverray.kernels.cpu.plans import plan_all
from silverray.kernels.cpu.probes import Probing
from silverray.kernels.cpu.programs import SCRATCH as PROGRAM_SCRATCH
from silverray.kernels.cpu.programs import count_all, evaluate_all
from silverray.kernels.cpu.refine import Cache, cache_of
from silverray.kernels.cpu.retrieve import retrieve_some
from silverray.kernels.cpu.scan_frame import Batch, Lists, Work, capacity_for, work_sizes
from silverray.kernels.cpu.scan_launch import MAX_BUFFER, code_lists, vector_lists
from silverray.kernels.cpu.simd import MAX_CHUNKS, load_int64, numbers_at, pointer
from silverray.kernels.cpu.survivors import count_rows, list_rows, score_listed
from silverray.kernels.retrieve import Arguments
from silverray.kernels.retrieve import retrieve as retrieve_planned
from silverray.kernels.rows import LANES, LINE


class Constants(NamedTuple):
    """What a bound index is to a kernel, as int64 numbers in this order in memory: addresses and sizes.

    Attributes:
        sizes: address of `[C]` int64.
        curve: address of `[3, lines]` float64.
        lines: of the curve.
        items: of which the curve gives the fraction.
        width: D.
        padded: floats of a query as exact products read it.
    """

    sizes: int
    curve: int
    lines: int
    items: int
    width: int
    padded: int


class Parts(NamedTuple):
    """Where the parts of a search lie in scratch memory, and what their sizes follow from, as int64 numbers in memory.

    Attributes:
        step: queries that are searched at a time.
        keep: candidates of each.
        k: best of these.
        capacity: places of a buffer of a scan.
        scored: places of a buffer of survivors.
        threads: T.
        totals: `[U]` int64 slots that pass a program.
        shares: `[T, U]` int64, and
        stacks: `[T]` stacks of programs, to count them.
        coded: `[step]` queries in int8, whole cache lines.
        scales: `[step]` float32 of these.
        sums: `[step]` int64 of these.
        wide: `[step, padded]` float32.
        coarse: `[step, C]` float32 scores of centroids.
        bases: `[step, C]` float32 exact ones.
        blocks: for `score_all`.
        probes: `[step, C]` int64.
        counts: of `Probing`, as are `ranks` and `walks`.
        ranks: see there.
        walks: see there.
        buffers: of `Work`: the first of its parts, which follow each other.
        slots: see there.
        taken: see there.
        thresholds: see there.
        pairs: see there.
        desks: see there.
        spare: 16 bytes for each of `[step, k]`.
        lanes: `[step]` two cache lines.
        bits: `[W]` int64 of a query whose survivors are scored.
        starts: `[2]` int64 of these.
        marked: `[few + 16]` int32 slots of these.
    """

    step: int
    keep: int
    k: int
    capacity: int
    scored: int
    threads: int
    totals: int
    shares: int
    stacks: int
    coded: int
    scales: int
    sums: int
    wide: int
    coarse: int
    bases: int
    blocks: int
    probes: int
    counts: int
    ranks: int
    walks: int
    buffers: int
    slots: int
    taken: int
    thresholds: int
    pairs: int
    desks: int
    spare: int
    lanes: int
    bits: int
    starts: int
    marked: int


_lists_at, _cache_at, _centroids_at = numbers_at(Lists), numbers_at(Cache), numbers_at(Centroids)
_constants_at, _parts_at = numbers_at(Constants), numbers_at(Parts)
_VECTORS = 8 * len(Lists._fields)
_CACHE = 2 * _VECTORS
"""Bytes to the cache among the numbers of a bound index, where two tuples of lists stand before it."""
_CENTROIDS = _CACHE + 8 * len(Cache._fields)
_CONSTANTS = _CENTROIDS + 8 * len(Centroids._fields)
_TYPES = torch.float32, torch.int32, torch.int64, torch.int64


class BoundIndex:
    """An index whose addresses are known; see `silverray.kernels.bound`. A copy is bound to the copied tensors.

    Args:
        index: what is searched; checked, and laid out as kernels read it.
        items: of which the curve gives the fraction.
    """

    def __init__(self, index: Index, items: int) -> None:
        width = index.vectors.shape[1]
        if width > LANES * MAX_CHUNKS:
            raise ValueError(f"vectors: expected at most {LANES * MAX_CHUNKS} dimensions on a CPU, got {width}")
        self._made_of = index, items
        self._slots, self._width = index.vectors.shape
        self._words, self._clusters = index.planes.shape[1], len(index.sizes)
        lists = code_lists(index.codes, index.scales, index.keys, index.offsets, index.planes)
        centroids = coded_centroids(index.centroid_codes, index.centroid_scales)._replace(
            rows=index.centroids.data_ptr(), row_stride=4 * index.centroids.stride(0), row_chunks=-(-width // LANES)
        )
        constants = Constants(
            index.sizes.data_ptr(), index.curve.data_ptr(), index.curve.shape[1], items, width, padded_width(width)
        )
        vectors, cache = vector_lists(index.vectors, index.keys), cache_of(index.vectors, index.keys)
        self._constants = torch.tensor([*lists, *vectors, *cache, *centroids, *constants])
        self._address = self._constants.data_ptr()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of

    def __call__(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        wanted: Tensor,
        n_probe: int,
        few: int,
        keep: int,
        k: int,
    ) -> Searched:
        """Plan and search; see `silverray.kernels.bound.Bound`."""
        self._check(queries, programs, filters, wanted)
        queries, programs = queries.contiguous(), programs.contiguous()
        filters, wanted = filters.contiguous(), wanted.contiguous()
        (count, _), (program_count, length), few = queries.shape, programs.shape, min(few, self._slots)
        step = max(1, min(count, MAX_BUFFER // capacity_for(max(keep, k))))
        layout = _lay_out(self._width, self._words, self._clusters, step, program_count, keep, k, use_threads(), few)
        scores, slots = torch.empty(count, k), torch.empty(count, k, dtype=torch.int64)
        survivors, plan = torch.empty(count, dtype=torch.bool), torch.empty(3, count, dtype=torch.int64)
        left = _search(
            self._address, layout.parts, scratch(layout.size), queries.data_ptr(), count, programs.data_ptr(),
            program_count, length, filters.data_ptr(), wanted.data_ptr(), n_probe, few, scores.data_ptr(),
            slots.data_ptr(), survivors.data_ptr(), plan.data_ptr(),
        )  # fmt: skip
        found = Searched(scores, slots, survivors, *plan.unbind())
        return self._score_survivors(found, queries, programs, filters, few, keep, k) if left else found

    def _check(self, queries: Tensor, programs: Tensor, filters: Tensor, wanted: Tensor) -> None:
        """Raise a `ValueError` that names what does not fit; that all fits is seen by two comparisons."""
        types = queries.dtype, programs.dtype, filters.dtype, wanted.dtype
        shapes = queries.shape, filters.shape, wanted.shape
        count = filters.numel()
        if types != _TYPES or shapes != ((count, self._width), (count,), (count,)) or programs.dim() != 2:
            check("queries", queries, torch.float32, None, self._width)
            check("programs", programs, torch.int32, None, None)
            check("filters", filters, torch.int64, queries.shape[0])
            check("wanted", wanted, torch.int64, queries.shape[0])

    def _score_survivors(
        self, planned: Searched, queries: Tensor, programs: Tensor, filters: Tensor, few: int, keep: int, k: int
    ) -> Searched:
        """Search a batch that was planned, in which there are survivors."""
        index, _ = self._made_of
        asked = Arguments(
            index.codes, index.scales, index.vectors, index.keys, index.offsets, index.sizes, index.planes, programs,
            filters, queries, index.centroids, index.centroid_codes, index.centroid_scales, *planned[2:], few, keep, k,
            0,
        )  # fmt: skip
        found = retrieve_planned(asked)
        return planned._replace(scores=found.scores, slots=found.slots)


class _Layout(NamedTuple):
    """The address of `Parts`, the bytes of scratch memory that they need, and the tensor that holds them."""

    parts: int
    size: int
    kept: Tensor


@lru_cache(maxsize=1_024)
def _lay_out(
    width: int, words: int, clusters: int, step: int, programs: int, keep: int, k: int, threads: int, few: int
) -> _Layout:
    """Lay out a search."""
    scanned = work_sizes(threads, step, clusters, keep)
    scored = work_sizes(threads, 1, 1, k)
    *places, size = laid_out(
        8 * programs, 8 * threads * programs, 8 * threads * PROGRAM_SCRATCH, step * _code_bytes(width), 4 * step,
        8 * step, 4 * step * padded_width(width), 4 * step * clusters, 4 * step * clusters, block_scratch(clusters),
        8 * step * clusters, *probes.work_sizes(step, clusters), *map(max, scanned, scored), 16 * step * k,
        2 * LINE * step, 8 * words, 16, 4 * (few + LANES),
    )  # fmt: skip
    parts = torch.tensor(Parts(step, keep, k, capacity_for(keep), capacity_for(k), threads, *places))
    return _Layout(parts.data_ptr(), size, parts)


def _code_bytes(width: int) -> int:
    return -(-width // LINE) * LINE


@kernel
def _search(
    bound, parts, memory, queries, count, programs, program_count, length, filters, wanted, n_probe, few, scores,
    slots, survivors, plan,
):  # fmt: skip
    """Plan, and search all queries, or score all that passes for the only one; all but numbers are addresses.

    Returns:
        How many queries have survivors that are still to be scored.
    """
    at = _parts_at(parts)
    left = _plan(
        bound, at, memory, count, programs, program_count, length, filters, wanted, n_probe, few, survivors, plan
    )
    if not left:
        for start in range(0, count, at.step):
            _search_some(
                bound, at, memory, queries, count, programs, program_count, length, filters, scores, slots, plan, start
            )
    elif count == 1:
        _score_one(bound, at, memory, queries, programs, length, filters, scores, slots)
        left = 0
    return left


@kernel
def _plan(
    bound, at, memory, count, programs, program_count, length, filters, wanted, n_probe, few, survivors, plan
):  # fmt: skip
    """Write the plan; returns how many queries have survivors."""
    lists, constants = _lists_at(bound), _constants_at(bound + _CONSTANTS)
    few_pass = carray(pointer(survivors), (count,), np.bool_)
    result = carray(pointer(plan), (3, count), np.int64)
    if n_probe >= 0:
        few_pass[:] = False
        result[0, :], result[1:, :] = n_probe, 0
        return 0
    totals = memory + at.totals
    count_all(
        lists.planes, lists.words, programs, program_count, length, lists.slots, memory + at.shares,
        memory + at.stacks, at.threads, totals,
    )  # fmt: skip
    plan_all(
        totals, filters, wanted, count, constants.curve, constants.lines, lists.slots, constants.items, few, survivors,
        plan + 8 * count,
    )  # fmt: skip
    number = 0
    for query in range(count):
        result[0, query] = lists.clusters if few_pass[query] else 1
        number += few_pass[query]
    return number if few else 0


@kernel
def _search_some(
    bound, at, memory, queries, count, programs, program_count, length, filters, scores, slots, plan, start
):  # fmt: skip
    """Probe, scan and refine for the queries from `start` on, one step of them."""
    lists, constants, centroids = _lists_at(bound), _constants_at(bound + _CONSTANTS), _centroids_at(bound + _CENTROIDS)
    size, mine, wide = min(at.step, count - start), queries + 4 * constants.width * start, memory + at.wide
    _pad(mine, size, constants, wide)
    probing = Probing(
        memory + at.coarse, size, lists.clusters, constants.sizes, lists.offsets, lists.planes, lists.words, programs,
        program_count, length, filters + 8 * start, plan + 8 * start, plan + 8 * (count + start),
        plan + 8 * (2 * count + start), memory + at.probes, memory + at.counts, memory + at.ranks, memory + at.walks,
    )  # fmt: skip
    batch = Batch(
        programs, program_count, length, filters + 8 * start, size, memory + at.coded,
        (constants.width + LINE - 1) // LINE * LINE, memory + at.scales, memory + at.sums, memory + at.bases,
        memory + at.probes, lists.clusters, at.keep,
    )  # fmt: skip
    retrieve_some(
        centroids, memory + at.blocks, probing, lists, batch, _work(at, memory, at.capacity),
        _cache_at(bound + _CACHE), mine, constants.width, wide, 4 * constants.padded, memory + at.spare,
        memory + at.lanes, scores + 4 * at.k * start, slots + 8 * at.k * start, at.k,
    )  # fmt: skip


@kernel
def _score_one(bound, at, memory, queries, programs, length, filters, scores, slots):
    """Score all that passes for one query."""
    lists, constants, starts = _lists_at(bound), _constants_at(bound + _CONSTANTS), memory + at.starts
    program, bits, wide = programs + 4 * length * load_int64(filters), memory + at.bits, memory + at.wide
    evaluate_all(lists.planes, lists.words, program, 1, length, bits, memory + at.stacks, at.threads)
    number = count_rows(bits, 1, lists.words, lists.slots, starts)
    list_rows(bits, 1, lists.words, number, starts, memory + at.marked)
    _pad(queries, 1, constants, wide)
    # The first of `starts` is 0, which is also the number of the only list.
    batch = Batch(0, 1, 0, starts, 1, wide, 4 * constants.padded, 0, 0, 0, 0, 0, at.k)
    score_listed(
        _lists_at(bound + _VECTORS), batch, _work(at, memory, at.scored), memory + at.marked, starts, scores, slots,
        memory + at.spare,
    )  # fmt: skip


@inlined
def _work(at, memory, capacity):
    return Work(
        at.threads, capacity, memory + at.buffers, memory + at.slots, memory + at.taken, memory + at.thresholds,
        memory + at.pairs, memory + at.desks,
    )  # fmt: skip


@kernel
def _pad(queries, count, constants, wide):
    """Copy queries, filled up with zeros to a power of two of floats."""
    given = carray(pointer(queries), (count, constants.width), np.float32)
    target = carray(pointer(wide), (count, constants.padded), np.float32)
    target[:, : constants.width], target[:, constants.width :] = given, 0
