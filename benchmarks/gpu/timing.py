"""Timing calls on a GPU: with events, one at a time or replayed from a captured CUDA graph.

Without a GPU the same calls are timed by the host's clock and nothing is captured: that shows that they run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from silverray.benchmarks.common.measure import Timing

Call = Callable[[], Any]

FLUSH_BYTES = 256 << 20
"""Written between two timed calls to leave nothing of theirs in the L2 cache; several times its size."""
STREAM_BYTES = 4 << 30
"""Eighty times the L2 cache of an H200, which reads it in a millisecond: a launch is nothing beside it."""
WARMUPS = 3
"""The first call compiles, the next may allocate, and a capture must meet neither; PyTorch's documentation takes
three as well."""
POISON = 0xFF
"""Bytes of memory before it is handed out: NaN as a float, -1 as an integer."""


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Captured:
    """A call whose launches were captured as a CUDA graph; calling it replays them on the tensors it was captured with.

    Args:
        call: launches kernels on tensors that stay where they are, and never waits for the GPU.
        pool: memory shared with other graphs; then only the latest replay's result is valid.
    """

    def __init__(self, call: Call, pool: Any = None) -> None:
        self._call = call
        self._graph: torch.cuda.CUDAGraph | None = None
        if not torch.cuda.is_available():
            self.result = call()
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUPS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.result = call()

    def __call__(self) -> Any:
        """Replay; the result holds until the next replay."""
        if self._graph is None:
            self.result = self._call()
        else:
            self._graph.replay()
        return self.result


def capture_all(calls: Sequence[Call]) -> list[Captured]:
    """Capture calls that are replayed one at a time, so they share their memory."""
    pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
    return [Captured(call, pool) for call in calls]


def time_calls(calls: Sequence[Call], rounds: int, *, waiting: bool = False, cold: bool = False) -> Timing:
    """Time calls by turns: the same work on different inputs.

    Args:
        calls: as many as it takes that one does not find the last one's data in the L2 cache.
        rounds: timed calls.
        waiting: wait for the GPU before each call, so that the host's part is timed too; else the host runs ahead.
        cold: overwrite the L2 cache before each call.

    Returns:
        Seconds of each call, on the GPU's clock where there is one.
    """
    for call in islice(cycle(calls), max(WARMUPS, len(calls)) if torch.cuda.is_available() else 1):
        call()
    if not torch.cuda.is_available():
        return Timing.of([_seconds(call) for call in islice(cycle(calls), rounds)])
    torch.cuda.synchronize()
    events = []
    for call in islice(cycle(calls), rounds):
        if cold:
            _flush_buffer().zero_()
        if waiting:
            torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return Timing.of([start.elapsed_time(end) / 1e3 for start, end in events])


def _seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@cache
def _flush_buffer() -> Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")


def time_all(calls: Sequence[Call], rounds: int) -> dict[str, float]:
    """Cells of a table's row: microseconds eager, replayed from graphs, and replayed with a cold L2 cache."""
    eager = time_calls(calls, rounds, waiting=True)
    graphs = capture_all(calls)
    warm, cold = time_calls(graphs, rounds), time_calls(graphs, rounds, cold=True)
    cells = warm.seconds() | eager.seconds(name="eager_us")
    return cells | cold.seconds(name="cold_us")


@cache
def read_bandwidth() -> float:
    """Bytes per second of a plain sum over 4 GiB, the faster of two dtypes: what reading can reach."""
    size = STREAM_BYTES if torch.cuda.is_available() else 1 << 20
    fastest = 0.0
    for dtype in (torch.float32, torch.int64):
        data = torch.ones(size // dtype.itemsize, dtype=dtype, device=device())
        fastest = max(fastest, size / time_calls([data.sum], 15).p50_s)
        del data
    return fastest


@cache
def copy_bandwidth() -> float:
    """Bytes per second, read and written ones together, of a copy of 4 GiB."""
    size = STREAM_BYTES if torch.cuda.is_available() else 1 << 20
    data = torch.ones(size // 4, device=device())
    target = torch.empty_like(data)
    return 2 * size / time_calls([lambda: target.copy_(data)], 15).p50_s


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def poison() -> None:
    """Fill memory that is free with a pattern, so that a result which nobody wrote does not look right by chance."""
    if torch.cuda.is_available():
        blocks = [(64, 1 << 10), (64, 1 << 16), (16, 1 << 20), (8, 1 << 24), (4, 1 << 28)]
        kept = [torch.full((size,), POISON, dtype=torch.uint8, device="cuda") for n, size in blocks for _ in range(n)]
        del kept


def free_memory() -> None:
    """Give cached memory back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
