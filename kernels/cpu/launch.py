"""What every launch of a CPU kernel needs: threads, and queries laid out as the kernels read them."""

from __future__ import annotations

import threading
from itertools import accumulate

import numba
import torch
from torch import Tensor

from silverray.kernels.cpu.simd import MAX_CHUNKS, RUN_CHUNKS
from silverray.kernels.rows import LANES, LINE

_kept = threading.local()


def _start_threads() -> None:
    """Start Numba's threads, which sets PyTorch's number of threads to that of the processors, and set it back."""
    threads = torch.get_num_threads()
    numba.set_num_threads(numba.get_num_threads())
    torch.set_num_threads(threads)


_start_threads()


def use_threads() -> int:
    """Let Numba use as many threads as PyTorch does; returns how many."""
    threads = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)
    return threads


def padded_floats(queries: Tensor) -> Tensor:
    """Queries `[Q, D]` filled up with zeros to a power of two of at least 16: what the exact dot product reads."""
    count, width = queries.shape
    if width > LANES * MAX_CHUNKS:
        raise ValueError(f"queries: expected at most {LANES * MAX_CHUNKS} dimensions on a CPU, got {width}")
    room = max(LANES, 1 << (width - 1).bit_length())
    if width == room:
        rows = queries.contiguous()
        return rows if rows.data_ptr() % LINE == 0 else rows.clone()
    wide = queries.new_zeros(count, room)
    wide[:, :width] = queries
    return wide


def code_rows(codes: Tensor) -> tuple[int, int, int, int]:
    """Rows of codes as kernels read them: address, bytes from row to row, 1 where `dot_run` takes them, 64-byte chunks.

    The codes must be as `aligned_rows` makes them, and outlive their use.
    """
    stride, chunks = codes.stride(0), -(-codes.shape[1] // LINE)
    return codes.data_ptr(), stride, int(stride == chunks * LINE and chunks in RUN_CHUNKS), chunks


def workspace(*sizes: int) -> list[int]:
    """Lay out scratch memory that this thread keeps from call to call.

    Memory that is new each time costs more than the work in it: the system maps and clears every page.

    Args:
        sizes: bytes of each part.

    Returns:
        The address of each part, a multiple of 64; good until the thread's next call of this function.
    """
    lines = [-(-size // LINE) for size in sizes]
    needed = LINE * (sum(lines) + 1)
    memory = getattr(_kept, "memory", None)
    if memory is None or len(memory) < needed:
        memory = _kept.memory = torch.empty(needed, dtype=torch.uint8)
    start = -(-memory.data_ptr() // LINE) * LINE
    return [start + LINE * before for before in accumulate(lines, initial=0)][:-1]
