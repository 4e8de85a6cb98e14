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
_MOST_THREADS = int(numba.config.NUMBA_NUM_THREADS)


def _start_threads() -> None:
    """Start Numba's threads, which sets PyTorch's number of threads to that of the processors, and set it back."""
    threads = torch.get_num_threads()
    numba.set_num_threads(numba.get_num_threads())
    torch.set_num_threads(threads)


_start_threads()


def use_threads() -> int:
    """Let Numba use as many threads as PyTorch does; returns how many."""
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    # Numba takes longer to say its number, which is each thread's own.
    if getattr(_kept, "threads", 0) != threads:
        numba.set_num_threads(threads)
        _kept.threads = threads
    return threads


def padded_width(width: int) -> int:
    """Floats of a query of `width` as exact dot products read it: a power of two of at least 16."""
    return max(LANES, 1 << (width - 1).bit_length())


def padded_floats(queries: Tensor) -> Tensor:
    """Queries `[Q, D]` filled up with zeros to a power of two of at least 16: what the exact dot product reads."""
    count, width = queries.shape
    if width > LANES * MAX_CHUNKS:
        raise ValueError(f"queries: expected at most {LANES * MAX_CHUNKS} dimensions on a CPU, got {width}")
    room = padded_width(width)
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


def scratch(size: int) -> int:
    """Scratch memory that this thread keeps from call to call.

    Memory that is new each time costs more than the work in it: the system maps and clears every page.

    Returns:
        The address of at least `size` bytes, a multiple of 64; good until the thread's next call of this function.
    """
    if size > getattr(_kept, "size", -1):
        _kept.memory = torch.empty(size + LINE, dtype=torch.uint8)
        _kept.start, _kept.size = -(-_kept.memory.data_ptr() // LINE) * LINE, size
    start: int = _kept.start
    return start


def laid_out(*sizes: int) -> list[int]:
    """Where parts of so many bytes begin when each begins on a cache line, and at last where they end."""
    return list(accumulate((-(-size // LINE) * LINE for size in sizes), initial=0))


def workspace(*sizes: int) -> list[int]:
    """Lay out scratch memory.

    Args:
        sizes: bytes of each part.

    Returns:
        The address of each part, a multiple of 64; good until the thread's next call of this function or `scratch`.
    """
    *places, size = laid_out(*sizes)
    start = scratch(size)
    return [start + place for place in places]
