"""The probed scan on a GPU, without asking the host between its steps.

A list that several queries probe is read once for 16 of them. What is to be done is a list of tasks on the device:
one kernel writes it, from the lists' sizes and the number of queries that probe them; the next takes from it. Scores
of slots that pass go, in no order, to a room of fixed size for each query; `select` keeps the best.

Letters: N slots, D dimensions, C clusters, Q queries, R planes, W words, U programs, T tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from silverray.kernels.bits import range_bits
from silverray.kernels.codes import quantize_rows
from silverray.kernels.gpu.launch import EXACT, power_of_two, resident_programs
from silverray.kernels.gpu.programs import launch as evaluate
from silverray.kernels.gpu.select import rank, select
from silverray.kernels.gpu.survivors import launch as score_survivors

GROUP = 16
"""Queries that share a read of a list: what a tensor core multiplies at least."""
TILE_WORDS = 2
"""Words of slots that a task scores together: 16 KiB of codes of 128 dimensions. More would leave registers for fewer
programs at once, and more of a short list's last tile empty."""
TILE_DIMENSIONS = 128
"""Dimensions of a code that are multiplied together: longer ones are added part by part, so that a tile takes no more
registers and shared memory."""
MAX_ROOM = 1 << 27
"""Most scores that `launch` holds at a time (1 GiB with their slots)."""
EXACT_QUERIES = 16
"""Queries whose lists `launch_exact` makes at a time: so many bitmaps of all slots are in memory, 40 MB for 20
million."""


class Room(NamedTuple):
    """Where a scan puts what it scored.

    Attributes:
        scores: `[Q, K]` float32.
        slots: `[Q, K]` int32.
        counts: `[Q]` int64 number of scored slots; past K they were dropped.
    """

    scores: Tensor
    slots: Tensor
    counts: Tensor

    @property
    def overflow(self) -> Tensor:
        """`[Q]` bool, whether a query's room was too small."""
        return self.counts > self.scores.shape[1]


class Tasks(NamedTuple):
    """The work of a scan.

    Attributes:
        members: `[C, Q]` int32, the queries that probe each cluster.
        sizes: `[C]` int32, how many they are.
        tasks: `[T, 3]` int32 cluster, first member and first word of each task.
        total: `[1]` int32 number of tasks.
    """

    members: Tensor
    sizes: Tensor
    tasks: Tensor
    total: Tensor


def launch(
    codes: Tensor,
    scales: Tensor,
    keys: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    probes: Tensor,
    centroid_scores: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `silverray.kernels.scan.scan`, with room for all that is probed; the result is sorted."""
    bits = evaluate(planes, programs)
    scores, slots = queries.new_empty(len(queries), keep), keys.new_empty(len(queries), keep)
    probed = _marked(probes, len(offsets) - 1)
    room = int((probed * offsets.diff()).sum(1).max()) if probed.numel() else 0
    step = max(1, MAX_ROOM // max(1, room))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        found = scan_lists(
            codes, scales, offsets, bits, filters[part], queries[part], probed[part], centroid_scores[part], room
        )
        scores[part], slots[part] = rank(*select(*found, keys, keep), keys)
    return scores, slots


def launch_exact(
    vectors: Tensor,
    keys: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    probes: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `silverray.kernels.scan.exact_scan`: list what passes in the probed lists, and score it."""
    bits = evaluate(planes, programs)
    scores, slots = queries.new_empty(len(queries), k), keys.new_empty(len(queries), k)
    probed = _marked(probes, len(offsets) - 1).bool()
    for start in range(0, len(queries), EXACT_QUERIES):
        part = slice(start, start + EXACT_QUERIES)
        mine = bits[filters[part]] & range_bits(probed[part], offsets, bits.shape[1])
        every = torch.arange(len(mine), device=queries.device)
        scores[part], slots[part] = score_survivors(vectors, keys, mine, every, queries[part], k)
    return scores, slots


def _marked(probes: Tensor, clusters: int) -> Tensor:
    """`[Q, C]` int8, 1 where a query probes a cluster, of `[Q, P]` int64 probes."""
    marked = torch.zeros(len(probes), clusters + 1, dtype=torch.int8, device=probes.device)
    marked.scatter_(1, torch.where(probes >= 0, probes, clusters), 1)
    return marked[:, :clusters].contiguous()


def scan_lists(
    codes: Tensor,
    scales: Tensor,
    offsets: Tensor,
    bits: Tensor,
    filters: Tensor,
    queries: Tensor,
    probed: Tensor,
    bases: Tensor,
    room: int,
) -> Room:
    """Score what passes in the probed clusters.

    Args:
        codes: `[N, D]` int8 residual codes.
        scales: `[N]` float32.
        offsets: `[C + 1]` int64.
        bits: `[U, W]` int64 filter bits; only words of clusters that a program's queries probe are read.
        filters: `[Q]` int64.
        queries: `[Q, D]` float32.
        probed: `[Q, C]` int8, 1 where a query probes a cluster.
        bases: `[Q, C]` float32 `q·centroid` where probed.
        room: places of each query.

    Returns:
        The scored slots in no order; the scores are those of `silverray.kernels.scan.scan`.

    Cost:
        Reads the codes that pass for any of `GROUP` queries once for them, and writes 8 bytes per score.
    """
    count, device = len(queries), queries.device
    found = Room(
        torch.empty(count, room, device=device),
        torch.empty(count, room, dtype=torch.int32, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
    )
    if not count or not len(codes):
        return found
    coded, tasks = quantize_rows(queries), plan_tasks(offsets, probed, bits.shape[1])
    width = min(TILE_DIMENSIONS, power_of_two(codes.shape[1], 32))
    _scan[(resident_programs(codes),)](
        codes, codes.stride(0), codes.shape[1], scales, offsets, bits, bits.shape[1], filters, coded.values,
        coded.scales, bases, len(offsets) - 1, *tasks, count, found.scores, found.slots, found.counts, room,
        GROUP, TILE_WORDS, width, triton.cdiv(codes.shape[1], width), num_warps=4, **EXACT,
    )  # fmt: skip
    return found


def plan_tasks(offsets: Tensor, probed: Tensor, words: int) -> Tasks:
    """List the work of a scan; arguments are those of `scan_lists`."""
    (count, clusters), device = probed.shape, probed.device
    most = triton.cdiv(count, GROUP) * (triton.cdiv(words, TILE_WORDS) + clusters)
    tasks = Tasks(
        torch.empty(clusters, count, dtype=torch.int32, device=device),
        torch.empty(clusters, dtype=torch.int32, device=device),
        torch.empty(most, 3, dtype=torch.int32, device=device),
        torch.zeros(1, dtype=torch.int32, device=device),
    )
    _plan_tasks[(clusters,)](
        probed, count, clusters, offsets, *tasks, power_of_two(count), GROUP, TILE_WORDS, num_warps=1
    )
    return tasks


@triton.jit
def _plan_tasks(
    probed, count, clusters, offsets, members, sizes, tasks, total,
    QUERIES: tl.constexpr, GROUP: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """One program of the grid `[C]` lists the queries of a cluster and writes its tasks."""
    cluster, query = tl.program_id(0).to(tl.int64), tl.arange(0, QUERIES)
    mine = tl.load(probed + query.to(tl.int64) * clusters + cluster, query < count, other=0).to(tl.int32)
    place, size = tl.cumsum(mine, 0) - 1, tl.sum(mine, 0)
    tl.store(members + cluster * count + place, query, mine != 0)
    tl.store(sizes + cluster, size)
    first, last = tl.load(offsets + cluster), tl.load(offsets + cluster + 1)
    if (size > 0) & (first < last):
        start = (first >> 6).to(tl.int32)
        tiles = (((last + 63) >> 6).to(tl.int32) - start + WORDS - 1) // WORDS
        at = tl.atomic_add(total, tiles * ((size + GROUP - 1) // GROUP), sem="relaxed")
        for group in range(0, size, GROUP):
            for tile in range(0, tiles):
                tl.store(tasks + at * 3, cluster.to(tl.int32))
                tl.store(tasks + at * 3 + 1, group)
                tl.store(tasks + at * 3 + 2, start + tile * WORDS)
                at += 1


@triton.jit
def _scan(
    codes, stride, dimensions, scales, offsets, bits, words, filters, queries, query_scales, bases, clusters,
    members, sizes, tasks, total, count, out_scores, out_slots, out_counts, room,
    GROUP: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Programs share the tasks: each scores `WORDS` words of a list for up to `GROUP` queries."""
    SLOTS: tl.constexpr = WORDS * 64
    lane, word, bit = tl.arange(0, GROUP), tl.arange(0, WORDS), tl.arange(0, 64).to(tl.int64)
    for task in range(tl.program_id(0), tl.load(total), tl.num_programs(0)):
        cluster, group = tl.load(tasks + task * 3).to(tl.int64), tl.load(tasks + task * 3 + 1)
        at = tl.load(tasks + task * 3 + 2).to(tl.int64)
        first, last = tl.load(offsets + cluster), tl.load(offsets + cluster + 1)
        here = group + lane < tl.load(sizes + cluster)
        query = tl.load(members + cluster * count + group + lane, here, other=0).to(tl.int64)
        row = tl.load(filters + query, here, other=0)
        inside = (at + word) * 64 < last
        mask = tl.load(bits + row[:, None] * words + (at + word)[None, :], here[:, None] & inside[None, :], other=0)
        passing = ((mask[:, :, None] >> bit[None, None, :]) & 1).to(tl.int32)
        passing = tl.reshape(passing, (GROUP, SLOTS))
        slot = at * 64 + tl.arange(0, SLOTS)
        passing = tl.where(((slot >= first) & (slot < last))[None, :], passing, 0)
        wanted = tl.max(passing, 0) > 0
        each = tl.sum(passing, 1)
        if tl.max(each, 0) > 0:
            dots = tl.zeros((GROUP, SLOTS), tl.int32)
            for part in tl.static_range(PARTS):
                column = part * WIDTH + tl.arange(0, WIDTH)
                left = tl.load(
                    queries + query[:, None] * dimensions + column[None, :],
                    here[:, None] & (column < dimensions)[None, :], other=0,
                )  # fmt: skip
                right = tl.load(
                    codes + slot[:, None] * stride + column[None, :],
                    wanted[:, None] & (column < dimensions)[None, :], other=0,
                )  # fmt: skip
                dots = tl.dot(left, tl.trans(right), dots, out_dtype=tl.int32)
            base = tl.load(bases + query * clusters + cluster, here, other=0)
            scale = tl.load(query_scales + query, here, other=0)[:, None] * tl.load(scales + slot, wanted, other=0)
            score = base[:, None] + scale * dots.to(tl.float32)
            start = tl.atomic_add(out_counts + query, each.to(tl.int64), here & (each > 0), sem="relaxed")
            place = start[:, None] + tl.cumsum(passing, 1) - 1
            kept = (passing > 0) & (place < room)
            tl.store(out_scores + query[:, None] * room + place, score, kept)
            tl.store(out_slots + query[:, None] * room + place, slot.to(tl.int32)[None, :] + 0 * passing, kept)
