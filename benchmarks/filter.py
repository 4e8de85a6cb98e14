"""Filters over whole catalogs as bit planes, against NumPy doing the same operations: `silverray bench filter`.

The programs are those of filters that a user writes, compiled as for any search; one thread; the filters of a batch
are all different, so that nothing is shared between queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from silverray.benchmarks.common.machine import with_threads
from silverray.benchmarks.common.measure import interleave, ratio
from silverray.benchmarks.common.report import Report
from silverray.kernels.bits import transpose_bits
from silverray.kernels.programs import PLANE_BITS, Opcode, count_passing, evaluate_programs
from silverray.kernels.rows import aligned_planes
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.schema import Schema

TITLE = "Filters over a whole catalog, one thread"
ITEMS = 800_000
"""As in the figures to reach, and in the measurement of Meta's operator that they go back to."""
QUICK_ITEMS = 50_000
"""A plane of 6 KB: made in a moment and read from a cache, so that its times mean nothing."""
COUNTRIES, LANGUAGES, DEVICES = 40, 30, 12
"""Below the 256 values up to which each has a plane, and a value passes 3 to 8 %."""
SCHEMA = Schema.parse(
    """
    id: id
    vector: {dimension: 2, metric: ip}
    fields:
      country: {type: category}
      language: {type: category}
      device: {type: category}
      safe: {type: bool}
      level: {type: int}
    """
)
COLUMNS = {
    "filter": "{name}",
    "instructions": "{instructions:.3g}",
    "contender": "{contender}",
    "us a query": "{us_p50:.1f}",
    "p20": "{us_p20:.1f}",
    "p80": "{us_p80:.1f}",
    "GB/s read": "{gigabytes_s:.0f}",
    "NumPy / this": "{ratio:.2f}",
}


class Planes(NamedTuple):
    """A catalog's planes `[R, W]` and what compiles filters to programs over them."""

    words: Tensor
    layout: PlaneLayout

    def programs(self, filters: Sequence[str]) -> Tensor:
        """Compile filters: `[B, L]` int32, the shorter ones padded."""
        plans = [compile_filter(text, SCHEMA, self.layout).exact for text in filters]
        assert all(plan.check is None for plan in plans), "the planes decide these filters alone"
        padded = torch.full((len(plans), max(len(plan.program) for plan in plans)), int(Opcode.NOP), dtype=torch.int32)
        for row, plan in zip(padded, plans, strict=True):
            row[: len(plan.program)] = torch.from_numpy(plan.program)
        return padded


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` is not used, the planes are made in seconds."""
    items = QUICK_ITEMS if quick else ITEMS
    report = Report("filter", TITLE, "silverray bench filter", quick=quick)
    planes = make_planes(items)
    report.facts({"items": items, "planes": planes.words.shape[0], "bytes of a plane": planes.words.shape[1] * 8})
    rows = [row for name, filters in FILTERS.items() for row in _measure(name, planes, filters, 5 if quick else 51)]
    report.table(f"{items:,} items, batches of different filters", COLUMNS, rows)
    report.figure("microseconds a query", lambda axes: _draw(axes, rows))
    return report


def make_planes(items: int, seed: int = 0) -> Planes:
    """The planes of a seeded catalog, in the layout that `publish` would choose."""
    rng = np.random.default_rng(seed)
    named = {"country": COUNTRIES, "language": LANGUAGES, "device": DEVICES}
    columns: dict[str, Any] = {
        name: pa.array([f"{name[0]}{value}" for value in range(count)]).take(pa.array(rng.integers(0, count, items)))
        for name, count in named.items()
    }
    columns |= {"safe": rng.random(items) < 0.9, "level": rng.integers(0, 4_096, items)}
    stored = read_columns(pa.table(columns), SCHEMA)
    layout = PlaneLayout.choose(SCHEMA, stored)
    return Planes(aligned_planes(transpose_bits(layout.encode(stored), layout.rows)), layout)


def _terms(number: int) -> str:
    country, language, device = number % COUNTRIES, (3 * number + 1) % LANGUAGES, (number // 2) % DEVICES
    return f'country = "c{country}" and language = "l{language}" and device = "d{device}" and safe'


def _many(number: int) -> str:
    countries = ", ".join(f'"c{(number + 5 * step) % COUNTRIES}"' for step in range(7))
    languages = ", ".join(f'"l{(number + 7 * step) % LANGUAGES}"' for step in range(4))
    return f"country in ({countries}) and language in ({languages}) and safe"


def _range(number: int) -> str:
    return f"level between {101 + 13 * number} and {2_995 + 7 * number}"


FILTERS = {
    "4 exact terms": [_terms(number) for number in range(32)],
    "12 planes": [_many(number) for number in range(32)],
    "a 12-bit range": [_range(number) for number in range(32)],
}
"""Filters by what they are; `live` is one plane more in each."""


def _measure(name: str, planes: Planes, filters: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    programs = planes.programs(filters)
    words, codes = planes.words.numpy().view(np.uint64), programs.tolist()
    workspace = np.empty((8, words.shape[1]), dtype=np.uint64)
    bits = evaluate_programs(planes.words, programs).numpy().view(np.uint64)
    for row, code in zip(bits, codes, strict=True):
        assert np.array_equal(row, evaluate_with_numpy(words, code, workspace)), f"{name}: NumPy finds other items"
    contenders = {
        "silverray": with_threads(lambda: count_passing(planes.words, programs, 64 * planes.words.shape[1]), 1),
        "silverray, bits written": with_threads(lambda: evaluate_programs(planes.words, programs), 1),
        "NumPy": lambda: [evaluate_with_numpy(words, code, workspace) for code in codes],
    }
    timings = interleave(contenders, rounds=rounds, warmup=2)
    loads = np.isin(programs.numpy() >> PLANE_BITS, [Opcode.LOAD, Opcode.AND, Opcode.OR, Opcode.ANDNOT]).sum()
    return [
        {
            "name": name,
            "instructions": float((programs > 0).sum() / len(filters)),
            "planes": float(loads / len(filters)),
            "contender": contender,
            **timing.seconds(1e-6, "us", len(filters)),
            "gigabytes_s": int(loads) * words.shape[1] * 8 / timing.p50_s / 1e9,
            "ratio": ratio(timings["NumPy"], timing),
        }
        for contender, timing in timings.items()
    ]


def evaluate_with_numpy(
    planes: NDArray[np.uint64], program: Sequence[int], workspace: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Run a program instruction by instruction over whole planes.

    Args:
        planes: `[R, W]` uint64.
        program: instructions, see `silverray.kernels.programs`.
        workspace: `[S, W]` uint64 for the stack; overwritten.

    Returns:
        `[W]` uint64, a row of `workspace`.
    """
    depth = -1
    for code in program:
        opcode, plane = code >> PLANE_BITS, planes[code & (1 << PLANE_BITS) - 1]
        match opcode:
            case Opcode.LOAD:
                depth += 1
                np.copyto(workspace[depth], plane)
            case Opcode.AND:
                np.bitwise_and(workspace[depth], plane, out=workspace[depth])
            case Opcode.OR:
                np.bitwise_or(workspace[depth], plane, out=workspace[depth])
            case Opcode.ANDNOT:
                np.bitwise_and(workspace[depth], ~plane, out=workspace[depth])
            case Opcode.STACK_AND:
                depth -= 1
                np.bitwise_and(workspace[depth], workspace[depth + 1], out=workspace[depth])
            case Opcode.STACK_OR:
                depth -= 1
                np.bitwise_or(workspace[depth], workspace[depth + 1], out=workspace[depth])
            case Opcode.STACK_NOT:
                np.bitwise_not(workspace[depth], out=workspace[depth])
    result: NDArray[np.uint64] = workspace[depth]
    return result


def _draw(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    for place, contender in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        times = [row["us_p50"] for row in rows if row["contender"] == contender]
        bars = axes.bar(np.arange(len(names)) + 0.4 * place, times, width=0.38, label=contender)
        axes.bar_label(bars, fmt="%.0f", fontsize="small")
    axes.set_xticks(np.arange(len(names)) + 0.2, names)
    axes.set_ylabel("microseconds, p50")
    axes.legend()
