"""Every Triton kernel against plain PyTorch on the same tensors, at the sizes that are served.

Scores and slots must be equal, bit for bit and order included; each kernel runs twice over memory filled with a
pattern, so that a race or a place that nobody writes is seen. Letters: N items, D dimensions, Q queries.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from silverray.benchmarks.gpu import truth
from silverray.benchmarks.gpu.catalog import FILTERS, Catalog, encode, make_catalog, make_queries, sharing
from silverray.benchmarks.gpu.scale import Scale, arguments
from silverray.benchmarks.gpu.timing import device, poison, synchronise
from silverray.kernels import bits, programs, scan_reference, scores, topk
from silverray.kernels.codes import quantize_rows
from silverray.kernels.gpu import programs as gpu_programs
from silverray.kernels.gpu import refine as gpu_refine
from silverray.kernels.gpu import retrieve as gpu_retrieve
from silverray.kernels.gpu import scan as gpu_scan
from silverray.kernels.gpu import scores as gpu_scores
from silverray.kernels.gpu import select as gpu_select
from silverray.kernels.gpu import survivors as gpu_survivors
from silverray.kernels.retrieve import Arguments
from silverray.shard.index.ladder import coarse_keep

Row = dict[str, Any]
Tensors = tuple[Tensor, ...]

TITLE = "Kernels against plain PyTorch"
COLUMNS = {
    "kernel": "{kernel}",
    "items": "{items:,}",
    "dimensions": "{dimensions}",
    "queries": "{queries}",
    "k": "{k}",
    "pass": "{share:.1%}",
    "outcome": "{outcome}",
}
PAIRS = 1 << 20
"""The reference gathers two vectors a pair, 1 GiB of 128 dimensions; programs of every multiprocessor take part many
times."""
MOST_SELECTED = 1 << 24
"""Candidates of all queries together in a check of the selection."""
TIGHT_ROOM = 100
"""Nearly every query overflows, as none does otherwise, and in the middle of a tile of 128 slots."""


class _Checks:
    """Checks on one catalog, run when they are iterated over."""

    def __init__(self, catalog: Catalog, scale: Scale) -> None:
        self.catalog = catalog
        self.scale = scale

    def row(self, kernel: str, check: Callable[[], str], queries: int, k: int = 0, share: float = 1) -> Row:
        """Run a check; what it returns says how results differ, and is empty where they do not."""
        items, dimensions = self.catalog.codes.shape
        error = None
        try:
            poison()
            detail = check()
            synchronise()
            outcome = "differs: " + detail if detail else "same"
        except Exception as problem:
            outcome, error = f"failed: {_first_line(problem)}", traceback.format_exc()
        return {
            "kernel": kernel, "items": items, "dimensions": dimensions, "queries": queries, "k": k or None,
            "share": share, "outcome": outcome, "error": error,
        }  # fmt: skip

    def search(self, queries: int, share: float, n_probe: int, k: int, seed: int = 1) -> Arguments:
        """Arguments of a search of so many lists."""
        return arguments(self.catalog, make_queries(self.catalog, queries, seed), sharing(share, queries), n_probe, k)

    def programs(self) -> str:
        """Everywhere, counted, and on some lists only."""
        its = self.catalog
        coded = encode([make(number) for make in FILTERS.values() for number in range(3)], its.planes.device)
        expected = programs.reference(its.planes, coded)
        inside = bits.count_ranges(expected, its.offsets)
        wanted = torch.rand(inside.shape, device=inside.device) < 0.5
        written = torch.zeros_like(expected)
        found = gpu_programs.count_lists(its.planes, coded, its.offsets, wanted.to(torch.int8), written)
        within = bits.range_bits(wanted, its.offsets, expected.shape[1])
        items = len(its.codes)
        return different(
            (gpu_programs.launch(its.planes, coded), expected),
            (gpu_programs.launch_count(its.planes, coded, items), inside.sum(1)),
            (found, inside * wanted),
            (written & within, expected & within),
        )

    def exact_scores(self, dtype: torch.dtype) -> str:
        """Random pairs, the last items among them."""
        its, count = self.catalog, min(PAIRS, 10 * len(self.catalog.codes))
        vectors, queries = its.vectors.to(dtype), make_queries(its, 5)
        rows = torch.randint(5, (count,), device=queries.device)
        slots = torch.randint(-1, len(vectors), (count,), device=queries.device)
        slots[::3] = len(vectors) - 1 - slots[::3].clamp(min=0) % 64
        expected = scores.reference(vectors, queries, rows, slots)
        return different((gpu_scores.launch(vectors, queries, rows, slots), expected))

    def selection(self, queries: int, width: int, keep: int, values: int) -> str:
        """Many equal scores, missing ones and both zeros."""
        its, items = self.catalog, len(self.catalog.codes)
        width = min(width, items)
        some = torch.randint(-values, values + 1, (queries, width), device=its.keys.device) / 7.0
        some[0, : width // 3], some[-1, width // 2 :] = -torch.inf, -0.0
        shifts = torch.arange(queries, device=its.keys.device)[:, None] * 7919
        candidates = ((torch.arange(width, device=its.keys.device) + shifts) % items).int()
        counts = torch.full((queries,), width, device=its.keys.device)
        counts[1::3], counts[2::3] = width // 2, width + 7
        there = some.masked_fill(torch.arange(width, device=its.keys.device) >= counts[:, None], -torch.inf)
        best, places = topk.reference(there, its.keys[candidates.long()], keep)
        expected = best, torch.where(places >= 0, candidates.long().gather(1, places.clamp(min=0)), -1)

        def launch() -> Tensors:
            return gpu_select.rank(*gpu_select.select(some, candidates, counts, its.keys, keep), its.keys)

        return twice(launch, expected)

    def scan(self, its: Arguments) -> str:
        """All that passes, and the best of it."""
        chosen, bases = truth.chosen_probes(its)
        expected = truth.scan(its, chosen, bases, its.keep)
        return twice(
            lambda: gpu_scan.launch(
                its.codes, its.scales, its.keys, its.offsets, its.planes, its.programs, its.filters, its.queries,
                chosen, bases, its.keep,
            ),
            expected,
        )  # fmt: skip

    def exact_scan(self, its: Arguments) -> str:
        """The best of all that passes by exact score."""
        chosen, _ = truth.chosen_probes(its)
        given = (its.vectors, its.keys, its.offsets, its.planes, its.programs, its.filters, its.queries, chosen, its.k)
        return twice(lambda: gpu_scan.launch_exact(*given), scan_reference.exact_scan(*given))

    def refine(self, queries: int, width: int, k: int) -> str:
        """Candidates from everywhere, some missing."""
        its, items = self.catalog, len(self.catalog.codes)
        asked, width = make_queries(its, queries), min(width, items)
        first = torch.randint(items, (queries, 1), device=asked.device)
        candidates = (first + torch.arange(width, device=asked.device) * max(1, items // width)) % items
        candidates[:, ::7] = -1
        candidates[0, min(3, k - 1) :] = -1  # fewer than are wanted
        given = its.vectors, its.keys, asked, candidates, k
        return twice(lambda: gpu_refine.launch(*given), truth.refine(*given))

    def survivors(self, queries: int, share: float, k: int) -> str:
        """Everything that passes."""
        its, asked = self.catalog, make_queries(self.catalog, queries)
        words = programs.reference(its.planes, encode(sharing(share, queries), asked.device))
        given = its.vectors, its.keys, words, torch.arange(queries, device=asked.device), asked, k
        return twice(lambda: gpu_survivors.launch(*given), truth.survivors(*given))

    def retrieve(self, its: Arguments) -> str:
        """The whole search."""

        def launch() -> Tensors:
            found = gpu_retrieve.launch(*its)
            assert not found[2].any(), "there was not enough room"
            return found[:2]

        return twice(launch, truth.retrieve(its))

    def overflow(self, its: Arguments) -> str:
        """A room that is too small is full, holds nothing twice, and says so."""
        chosen, bases = truth.chosen_probes(its)
        probed = torch.zeros(len(chosen), len(its.sizes), dtype=torch.int8, device=chosen.device)
        probed.scatter_(1, chosen, 1)
        words = programs.reference(its.planes, its.programs)
        found = gpu_scan.scan_lists(
            its.codes, its.scales, its.offsets, words, its.filters, its.queries, probed, bases, TIGHT_ROOM
        )
        inside = (bits.count_ranges(words, its.offsets)[its.filters] * probed).sum(1)
        full = inside > TIGHT_ROOM
        held = [len(torch.unique(row)) for row in found.slots[full]]
        if any(count != TIGHT_ROOM for count in held):
            return f"full rooms hold {held}"
        return different((found.counts, inside), (found.overflow, full))

    def ties(self, queries: int, k: int) -> str:
        """Equal scores everywhere, so that the keys decide."""
        its = self.search(queries, 0.1, 8, k)
        items = min(len(its.codes), 5)
        codes, vectors = its.codes[:1].expand_as(its.codes).contiguous(), its.vectors.clone()
        vectors[:] = its.vectors[torch.arange(len(vectors), device=vectors.device) % items]
        centres = torch.full_like(its.centroids, 0.1)
        coded = quantize_rows(centres)
        return self.retrieve(
            its._replace(
                codes=codes, scales=torch.full_like(its.scales, 0.5), vectors=vectors, centroids=centres,
                centroid_codes=coded.values, centroid_scales=coded.scales,
            )
        )  # fmt: skip


def edges(scale: Scale) -> Iterator[tuple[str, Row]]:
    """Small catalogs of odd sizes: every kernel, float32 and bfloat16, ties, and a room that is too small."""
    for items, dimensions, clusters, queries in scale.edges:
        checks = _Checks(make_catalog(items, dimensions, clusters, device()), scale)
        for k in (9,) if scale.quick else (1, 9, items):
            for row in _small(checks, queries, clusters, k):
                yield TITLE, row


def _small(checks: _Checks, queries: int, clusters: int, k: int) -> Iterator[Row]:
    items = len(checks.catalog.codes)
    its = checks.search(queries, 0.1, max(1, clusters // 2), k)
    # Demands of every kind, and some queries for which all that passes is scored.
    odd = torch.arange(queries, device=its.queries.device)
    mixed = its._replace(
        survivors=odd % 3 == 1, visit=odd * (items // queries), passing=odd % 5, few=items, room=items,
        vectors=its.vectors.to(torch.bfloat16),
    )  # fmt: skip
    yield checks.row("programs", checks.programs, 9)
    for dtype in (torch.float32, torch.bfloat16):
        yield checks.row(f"exact scores, {dtype}", partial(checks.exact_scores, dtype), 5)
    yield checks.row("selection", lambda: checks.selection(queries, items, k, 3), queries, k)
    yield checks.row("scan", lambda: checks.scan(its), queries, k, 0.1)
    yield checks.row("exact scan", lambda: checks.exact_scan(its), queries, k, 0.1)
    yield checks.row("refine", lambda: checks.refine(queries, items, k), queries, k)
    yield checks.row("survivors", lambda: checks.survivors(queries, 0.1, k), queries, k, 0.1)
    yield checks.row("retrieve", lambda: checks.retrieve(its), queries, k, 0.1)
    yield checks.row("retrieve, mixed plans, bfloat16", lambda: checks.retrieve(mixed), queries, k, 0.1)
    yield checks.row("retrieve, ties", lambda: checks.ties(queries, k), queries, k, 0.1)
    wide = checks.search(queries, 1.0, clusters, k)
    yield checks.row("a room that is too small", lambda: checks.overflow(wide), queries, k)


def at_smallest(scale: Scale) -> Iterator[tuple[str, Row]]:
    """On the smallest catalog."""
    yield from _at_size(scale, 0)


def at_middle(scale: Scale) -> Iterator[tuple[str, Row]]:
    """On the headline's catalog."""
    yield from _at_size(scale, 1)


def at_largest(scale: Scale) -> Iterator[tuple[str, Row]]:
    """On the largest catalog, whose codes and vectors lie past what 32 bits address."""
    yield from _at_size(scale, 2)


def _at_size(scale: Scale, which: int) -> Iterator[tuple[str, Row]]:
    rows = _large(_Checks(scale.catalog(scale.items[which]), scale), scale)
    for row in islice(rows, 4) if scale.quick and which else rows:
        yield TITLE, row


def _large(checks: _Checks, scale: Scale) -> Iterator[Row]:
    """What differs most between the sizes comes first: time may run out."""
    yield checks.row("programs", checks.programs, 9)
    yield checks.row("exact scores, float32", partial(checks.exact_scores, torch.float32), 5)
    # Each batch with each k and each share at least once, not all products.
    for turn in range(1 if scale.quick else len(scale.shares)):
        for place, queries in enumerate(scale.batches):
            share = scale.shares[(place + turn) % len(scale.shares)]
            k = scale.ks[(place + 2 * turn) % len(scale.ks)]
            its = checks.search(queries, share, scale.n_probe, k)
            yield checks.row("scan", partial(checks.scan, its), queries, k, share)
            yield checks.row("retrieve", partial(checks.retrieve, its), queries, k, share)
            few = its._replace(survivors=torch.arange(queries, device=its.queries.device) % 2 == 0, few=scale.few)
            if share * len(its.codes) <= 0.9 * scale.few:
                yield checks.row("retrieve, half survivors", partial(checks.retrieve, few), queries, k, share)
            if turn == 0:
                width = min(scale.width, MOST_SELECTED // queries)
                for values in (3, 10**6):
                    check = partial(checks.selection, queries, width, k, values)
                    yield checks.row(f"selection of {width:,}", check, queries, k)
                kept = coarse_keep(k)
                yield checks.row(f"refine {kept:,}", partial(checks.refine, queries, kept, k), queries, k)
    yield checks.row("retrieve, ties", lambda: checks.ties(16, 100), 16, 100, 0.1)
    wide = checks.search(16, 1.0, scale.n_probe, 10)
    yield checks.row("a room that is too small", lambda: checks.overflow(wide), 16)
    for queries, share, k in ((16, 0.001, 100), (5, 0.01, 1_000), (2, 1.0, 100)):
        some = checks.search(queries, share, min(8, scale.n_probe), k)
        yield checks.row("exact scan", partial(checks.exact_scan, some), queries, k, share)
        yield checks.row("survivors", partial(checks.survivors, queries, share, k), queries, k, share)


def twice(launch: Callable[[], Tensors], expected: Tensors) -> str:
    """How the results of two launches differ from what is expected."""
    first = launch()
    poison()
    second = launch()
    return different(*zip(first, expected, strict=True), *zip(second, expected, strict=True))


def different(*pairs: tuple[Tensor, Tensor]) -> str:
    """How results differ from what is expected; empty where they are the same."""
    for number, (found, expected) in enumerate(pairs):
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return f"part {number} is {list(found.shape)} {found.dtype}, not {list(expected.shape)} {expected.dtype}"
        wrong = found != expected
        if wrong.any():
            where = torch.nonzero(wrong)[0].tolist()
            values = found[wrong][0].item(), expected[wrong][0].item()
            return (
                f"part {number}, {int(wrong.sum())} of {wrong.numel()}, first at {where}: {values[0]}, not {values[1]}"
            )
    return ""


def _first_line(problem: Exception) -> str:
    text = str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:160]
