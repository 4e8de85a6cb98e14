"""How fast the Triton kernels are, beside the bytes that they must move and what the memory can do.

Letters: N items, D dimensions, C clusters, Q queries, P probes, U programs, W words.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from silverray.benchmarks.gpu import truth
from silverray.benchmarks.gpu.catalog import FILTERS, Catalog, make_queries, sharing
from silverray.benchmarks.gpu.scale import Scale, arguments
from silverray.benchmarks.gpu.timing import (
    Captured,
    capture_all,
    copy_bandwidth,
    device,
    free_memory,
    read_bandwidth,
    time_all,
    time_calls,
)
from silverray.kernels import centroids, programs
from silverray.kernels.codes import quantize_rows
from silverray.kernels.gpu import retrieve as gpu_retrieve
from silverray.kernels.gpu.programs import count_lists
from silverray.kernels.gpu.programs import launch as evaluate
from silverray.kernels.gpu.refine import best_of
from silverray.kernels.gpu.scan import Room, plan_tasks, scan_lists
from silverray.kernels.gpu.select import rank, select
from silverray.kernels.probes import clusters_needed
from silverray.kernels.retrieve import Arguments

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

HEADLINE_K, HEADLINE_SHARE, HEADLINE_BATCH, HEADLINE_MS = 1_000, 0.1, 16, 0.3
"""The figure to reach, with its milliseconds: 3 million items, 16 queries, k = 1,000, where 10 % pass."""
MAX_ROOM = 1 << 27
"""Most scores, of all queries of a batch together, that a figure makes room for."""
INPUT_BYTES = 256 << 20
"""Codes, of all sets of queries together, that timed calls read by turns: several times the L2 cache."""
MOST_SETS, QUERIES_OF_SETS = 8, 64
"""Each set is a graph of its own, with its own memory and seconds of capture: of all sets no more queries than this,
unless two sets need them."""
PROFILED = 5
"""A mean over a few calls; a profile keeps every launch, and costs them time."""

MICROSECONDS = {
    "graph us": "{us_p50:,.1f}",
    "p20": "{us_p20:,.1f}",
    "p80": "{us_p80:,.1f}",
    "L2 cold": "{cold_us_p50:,.1f}",
    "eager": "{eager_us_p50:,.1f}",
}
BANDWIDTH = "The memory"
RETRIEVE = "The whole search: probe, filter, scan, select, refine"
STEPS = "Where a search's time goes"
PLANES = "Filters"
SCAN = "The scan"
SELECT = "Selection and refinement"
MODEL = "The retrieval model"
COLUMNS: dict[str, dict[str, str]] = {
    BANDWIDTH: {"what": "{what}", "GB/s": "{gigabytes_s:,.0f}"},
    RETRIEVE: {
        "items": "{items:,}", "batch": "{batch}", "k": "{k}", "pass": "{share:.1%}", "probes": "{n_probe}",
        **MICROSECONDS, "graph queries/s": "{qps:,.0f}", "graph = eager": "{equal}", "error": "{failed}",
    },
    STEPS: {"step": "{step}", "launches": "{launches:.1f}", "us": "{us_p50:,.2f}", "error": "{failed}"},
    PLANES: {
        "items": "{items:,}", "filter": "{filter}", "words": "{words}", **MICROSECONDS, "MB": "{megabytes:,.2f}",
        "of the memory's": "{of_read:.0%}", "error": "{failed}",
    },
    SCAN: {
        "items": "{items:,}", "batch": "{batch}", "pass": "{share:.1%}", **MICROSECONDS, "MB": "{megabytes:,.1f}",
        "written MB": "{written:,.1f}", "of the memory's": "{of_read:.0%}", "error": "{failed}",
    },
    SELECT: {
        "what": "{what}", "batch": "{batch}", "candidates": "{candidates:,}", "k": "{k}", **MICROSECONDS,
        "torch.topk us": "{topk_us:,.1f}", "of the memory's": "{of_read:.0%}", "error": "{failed}",
    },
    MODEL: {
        "items": "{items:,}", "batch": "{batch}", "k": "{k}", "pass": "{share:.1%}", "plan": "{plan}",
        "graph us": "{us_p50:,.1f}", "eager": "{eager_us_p50:,.1f}", "overflow": "{overflow}", "error": "{failed}",
    },
}  # fmt: skip


def guarded(row: Row, measure: Callable[[], Row]) -> Row:
    """A row with what was measured, or with the error that it ended with."""
    try:
        return row | measure()
    except Exception as problem:
        # After a fault on the GPU this fails too, and the first error is the one to keep.
        with suppress(RuntimeError):
            free_memory()
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0][:120]
        return row | {"failed": first, "error": traceback.format_exc()}


def bandwidth(scale: Scale) -> Rows:
    """What reading and copying reach."""
    yield BANDWIDTH, {"what": "read", "gigabytes_s": read_bandwidth() / 1e9}
    yield BANDWIDTH, {"what": "copy, read and written", "gigabytes_s": copy_bandwidth() / 1e9}


def _sets(scale: Scale, catalog: Catalog, batch: int, share: float) -> int:
    """How many sets of queries it takes to read several times the L2 cache."""
    size = batch * scale.n_probe * len(catalog.codes) / len(catalog.sizes) * share * scale.dimensions
    most = min(MOST_SETS, max(2, QUERIES_OF_SETS // batch))
    return 1 if scale.quick else int(min(most, max(2, INPUT_BYTES // size)))


def _searches(
    scale: Scale, catalog: Catalog, batch: int, share: float, k: int, n_probe: int | None = None
) -> list[Arguments]:
    """The same search with several sets of queries."""
    probes = scale.n_probe if n_probe is None else n_probe
    room = catalog.room(probes)
    # Of what a filter passes, no query finds much more than its share.
    room = min(room, int(1.5 * share * room) + 4_096, MAX_ROOM // batch)
    return [
        arguments(catalog, make_queries(catalog, batch, seed), sharing(share, batch), probes, k, room)
        for seed in range(1, 1 + _sets(scale, catalog, batch, share))
    ]


def _retrieving(searches: Sequence[Arguments]) -> list[Callable[[], tuple[Tensor, Tensor, Tensor]]]:
    return [partial(gpu_retrieve.launch, *its) for its in searches]


def _retrieve_row(scale: Scale, items: int, batch: int, k: int, share: float) -> Row:
    row = {"items": items, "batch": batch, "k": k, "share": share, "n_probe": scale.n_probe}

    def measure() -> Row:
        searches = _searches(scale, scale.catalog(items), batch, share, k)
        calls = _retrieving(searches)
        eager = [part.clone() for part in calls[0]()]
        replay = Captured(calls[0])
        same = all(torch.equal(*pair) for pair in zip(replay(), eager, strict=True))
        del replay
        cells = time_all(calls, scale.rounds)
        overflow = int(eager[2].sum())
        return {**cells, "qps": batch / cells["us_p50"] * 1e6, "equal": same, "overflow": overflow}

    return guarded(row, measure)


def headline(scale: Scale) -> Rows:
    """The case that has a target, and its steps."""
    items, batch = scale.items[1], min(HEADLINE_BATCH, max(scale.batches))
    k = HEADLINE_K if HEADLINE_K in scale.ks else scale.ks[-1]
    row = _retrieve_row(scale, items, batch, k, HEADLINE_SHARE)
    yield RETRIEVE, row | {"headline": True, "target_us": HEADLINE_MS * 1e3}
    its = _searches(scale, scale.catalog(items), batch, HEADLINE_SHARE, k)[0]
    yield from ((STEPS, step) for step in _parts(scale, its))
    yield from ((STEPS, step) for step in _profile(scale, its))


def _parts(scale: Scale, its: Arguments) -> Iterator[Row]:
    """Each step of `retrieve` captured as a graph of its own, on what the step before it left."""
    bits = torch.empty(len(its.programs), its.planes.shape[1], dtype=torch.int64, device=its.planes.device)
    probed, bases = gpu_retrieve._probe(its, bits)
    room = scan_lists(its.codes, its.scales, its.offsets, bits, its.filters, its.queries, probed, bases, its.room)
    _, candidates, counts = select(*room, its.keys, its.keep)
    coarse = centroids.reference(its.centroid_codes, its.centroid_scales, its.queries)
    order = torch.sort(coarse, dim=1, descending=True, stable=True).indices
    inside = torch.zeros_like(order)
    wanted = torch.zeros(len(its.programs), len(its.sizes), dtype=torch.int32, device=bits.device)
    wanted.index_add_(0, its.filters, probed.to(torch.int32))
    steps: dict[str, Callable[[], object]] = {
        "all of retrieve": lambda: gpu_retrieve.launch(*its),
        "1 probe and filter": lambda: gpu_retrieve._probe(its, bits),
        "1a score centroids": lambda: centroids.reference(its.centroid_codes, its.centroid_scales, its.queries),
        "1b sort centroids": lambda: torch.sort(coarse, dim=1, descending=True, stable=True),
        "1c clusters needed": lambda: clusters_needed(order, its.sizes, inside, its.least, its.visit, its.passing),
        "1d filter probed lists": lambda: count_lists(its.planes, its.programs, its.offsets, wanted, bits),
        "2 scan": lambda: scan_lists(
            its.codes, its.scales, its.offsets, bits, its.filters, its.queries, probed, bases, its.room
        ),
        "2a quantise queries": lambda: quantize_rows(its.queries),
        "2b plan tasks": lambda: plan_tasks(its.offsets, probed, bits.shape[1]),
        "3 select": lambda: select(*room, its.keys, its.keep),
        "4 refine and rank": lambda: best_of(its.vectors, its.keys, its.queries, candidates, counts, its.k),
    }
    for step, call in steps.items():
        yield guarded({"step": step}, partial(_graph_seconds, scale, call))
    passing = int(room.counts.sum())
    yield {"step": "scores made, of all queries", "scores": passing}


def _graph_seconds(scale: Scale, call: Callable[[], object]) -> Row:
    return dict(time_calls(capture_all([call]), scale.rounds).seconds())


def _profile(scale: Scale, its: Arguments) -> Iterator[Row]:
    """Microseconds of each kernel in an eager call, by PyTorch's profiler."""
    if not torch.cuda.is_available():
        return
    from torch.profiler import ProfilerActivity, profile

    gpu_retrieve.launch(*its)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            gpu_retrieve.launch(*its)
        torch.cuda.synchronize()
    rows = [
        {
            "step": f"kernel {event.key[:70]}",
            "launches": event.count / PROFILED,
            "us_p50": event.self_device_time_total / PROFILED,
        }
        for event in found.key_averages()
        if event.self_device_time_total > 0 and str(event.device_type).endswith("CUDA")
    ]
    yield from sorted(rows, key=lambda row: -float(row["us_p50"]))


def retrieve(scale: Scale) -> Rows:
    """The whole search over batches, shares and sizes."""
    k = scale.ks[-1] if scale.quick else HEADLINE_K
    cases = [(scale.items[1], batch, k, share) for share in (0.1, 1.0) for batch in scale.batches]
    cases += [(scale.items[1], batch, k, share) for share in scale.shares[2:] for batch in scale.batches[1:]]
    cases += [(scale.items[1], batch, small, 0.1) for small in scale.ks if small != k for batch in scale.batches[1::2]]
    cases += [(items, batch, k, 0.1) for items in scale.items[::2] for batch in scale.batches]
    for case in cases[: 3 if scale.quick else None]:
        yield RETRIEVE, _retrieve_row(scale, *case)


def planes(scale: Scale) -> Rows:
    """Filters over everything and over what a batch probes: the latter should be no slower at any size."""
    for items in scale.items[: 1 if scale.quick else None]:
        catalog, batch = scale.catalog(items), min(16, max(scale.batches))
        for name, make in FILTERS.items():
            made = [make(number) for number in range(batch)]
            its = arguments(catalog, make_queries(catalog, batch), made, scale.n_probe, 10)
            chosen, _ = truth.chosen_probes(its)
            wanted = torch.zeros(batch, len(its.sizes), dtype=torch.int8, device=chosen.device).scatter_(1, chosen, 1)
            bits = torch.empty(batch, its.planes.shape[1], dtype=torch.int64, device=chosen.device)
            spans = (its.offsets[1:] + 63) // 64 - its.offsets[:-1] // 64
            # A plane is read once for all programs that ask for it, and each program's result is written.
            read = {code & (1 << programs.PLANE_BITS) - 1 for row in its.programs.tolist() for code in row if code}
            probed = int((wanted.amax(0) * spans).sum()) * len(read) + int((wanted * spans).sum())
            whole = its.planes.shape[1] * (len(read) + batch)
            ways: list[tuple[str, int, Callable[[], object]]] = [
                ("all", whole, partial(evaluate, its.planes, its.programs)),
                (
                    "probed",
                    probed,
                    partial(count_lists, its.planes, its.programs, its.offsets, wanted, bits),
                ),
            ]
            for words, moved, call in ways:
                row = {"items": items, "filter": name, "words": words, "batch": batch, "megabytes": 8 * moved / 1e6}
                yield PLANES, guarded(row, partial(_against_memory, scale, [call], 8 * moved))


def _against_memory(scale: Scale, calls: Sequence[Callable[[], object]], size: int) -> Row:
    cells: Row = dict(time_all(calls, scale.rounds))
    # The slower of the two: what the L2 cache holds between calls is not read from memory.
    slower_s = max(cells["us_p50"], cells["cold_us_p50"]) * 1e-6
    return cells | {"of_read": size / slower_s / read_bandwidth()}


def scan(scale: Scale) -> Rows:
    """The scan alone, its filters evaluated before."""
    for items in scale.items[1 : 2 if scale.quick else None]:
        catalog = scale.catalog(items)
        for batch in scale.batches:
            for share in scale.shares:
                row = {"items": items, "batch": batch, "share": share, "n_probe": scale.n_probe}
                yield (
                    SCAN,
                    guarded(row, partial(_scan_row, scale, catalog, batch, share)),
                )
                free_memory()


def _scan_row(scale: Scale, catalog: Catalog, batch: int, share: float) -> Row:
    calls, sizes, overflow = [], [], 0
    for its in _searches(scale, catalog, batch, share, 100):
        bits = programs.reference(its.planes, its.programs)
        chosen, bases = truth.chosen_probes(its)
        probed = torch.zeros(batch, len(its.sizes), dtype=torch.int8, device=chosen.device).scatter_(1, chosen, 1)
        traffic = truth.scan_traffic(its, bits, chosen)
        sizes.append((traffic.bytes(scale.dimensions), 8 * traffic.scores))

        def call(its: Arguments = its, bits: Tensor = bits, probed: Tensor = probed, bases: Tensor = bases) -> Room:
            return scan_lists(
                its.codes, its.scales, its.offsets, bits, its.filters, its.queries, probed, bases, its.room
            )

        overflow += int(call().overflow.sum())
        calls.append(call)
    moved, written = (sum(part) / len(sizes) for part in zip(*sizes, strict=True))
    row = _against_memory(scale, calls, int(moved))
    return row | {"megabytes": moved / 1e6, "written": written / 1e6, "overflow": overflow, "sets": len(calls)}


def selection(scale: Scale) -> Rows:
    """Selecting and ranking beside `torch.topk`, and refining beside the bytes of the vectors."""
    catalog = scale.catalog(scale.items[1])
    widths = [(min(scale.width, len(catalog.codes), width), keep) for width, keep in scale_widths(scale)]
    for batch in scale.batches:
        for width, keep in widths:
            if batch * width <= MAX_ROOM // 4:
                row = {"what": "select and rank", "batch": batch, "candidates": width, "k": keep}
                yield SELECT, guarded(row, partial(_select_row, scale, catalog, batch, width, keep))
    for batch in scale.batches:
        for k in scale.ks:
            kept = min(4 * max(64, k), len(catalog.codes))
            row = {"what": "refine", "batch": batch, "candidates": kept, "k": k}
            yield SELECT, guarded(row, partial(_refine_row, scale, catalog, batch, kept, k))


def scale_widths(scale: Scale) -> list[tuple[int, int]]:
    """Candidates of a query, and how many are kept."""
    if scale.quick:
        return [(300, 20)]
    return [(4_096, 1_000), (35_000, 400), (35_000, 4_000), (300_000, 4_000), (1_000_000, 1_000), (1_000_000, 40_000)]


def _select_row(scale: Scale, catalog: Catalog, batch: int, width: int, keep: int) -> Row:
    scores = torch.randn(batch, width, device=device())
    candidates = torch.randint(len(catalog.codes), (batch, width), dtype=torch.int32, device=device())
    # Ranked items must differ; scores that differ are enough to tell them apart.
    counts = torch.full((batch,), width, device=device())
    cells: Row = dict(
        time_all([lambda: rank(*select(scores, candidates, counts, catalog.keys, keep), catalog.keys)], scale.rounds)
    )
    peer = time_calls(capture_all([lambda: torch.topk(scores, min(keep, width), dim=1)]), scale.rounds)
    alone = time_calls(capture_all([lambda: select(scores, candidates, counts, catalog.keys, keep)]), scale.rounds)
    cells |= {"topk_us": peer.p50_s * 1e6, "select_us": alone.p50_s * 1e6}
    return cells | {"of_read": 4 * batch * width / (cells["us_p50"] * 1e-6) / read_bandwidth()}


def _refine_row(scale: Scale, catalog: Catalog, batch: int, width: int, k: int) -> Row:
    items, queries = len(catalog.codes), make_queries(catalog, batch)
    step, counts = items // width, torch.full((batch,), width, device=device())
    candidates = [
        (
            (torch.randint(items, (batch, 1), device=device()) + torch.arange(width, device=device()) * step) % items
        ).int()
        for _ in range(1 if scale.quick else 4)
    ]
    calls = [partial(best_of, catalog.vectors, catalog.keys, queries, mine, counts, k) for mine in candidates]
    return _against_memory(scale, calls, batch * width * catalog.vectors.shape[1] * 4)
