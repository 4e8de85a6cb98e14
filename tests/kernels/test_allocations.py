"""Nothing is allocated per query: a batch of 256 costs as many allocations and Python calls as one of 64."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
import torch
from numba.core.runtime import _nrt_python, rtsys
from torch import Tensor

from silverray.kernels.refine import refine
from silverray.kernels.retrieve import retrieve
from silverray.kernels.scan import exact_scan, scan

from .cases import Lists, make_lists
from .test_retrieve import arguments_of

QUERIES = (64, 256)
Call = Callable[[], tuple[Tensor, ...]]


@pytest.fixture
def counted() -> Iterator[None]:
    """Numba counts its allocations."""
    _nrt_python.memsys_enable_stats()
    yield
    _nrt_python.memsys_disable_stats()


def make(count: int) -> Lists:
    return make_lists(3000, 40, 20, count, 6, seed=count)


def refining(lists: Lists) -> Call:
    candidates = torch.stack([torch.randperm(3000)[:200] for _ in lists.queries])
    return lambda: refine(lists.vectors, lists.keys, lists.queries, candidates, 50)


def retrieving(lists: Lists) -> Call:
    arguments = arguments_of(lists, 1, 100, 50, share=0)
    return lambda: retrieve(arguments)


OPS: dict[str, Callable[[Lists], Call]] = {
    "scan": lambda lists: lambda: scan(*lists.scan, 100),
    "exact_scan": lambda lists: lambda: exact_scan(*lists.exact_scan, 100),
    "refine": refining,
    "retrieve": retrieving,
}


@pytest.mark.parametrize("name", OPS)
def test_numba_allocates_as_often_for_64_queries_as_for_256(name: str, counted: None) -> None:
    counts = []
    for queries in QUERIES:
        call = OPS[name](make(queries))
        call()
        before = rtsys.get_allocation_stats()
        call()
        after = rtsys.get_allocation_stats()
        counts.append(after.alloc - before.alloc)
        assert after.alloc - before.alloc == after.free - before.free
    assert counts[0] == counts[1] <= 10


@pytest.mark.parametrize("name", OPS)
def test_python_and_torch_are_called_as_often_for_64_queries_as_for_256(name: str) -> None:
    counts = []
    for queries in QUERIES:
        call = OPS[name](make(queries))
        events: list[str] = []

        def see(frame: FrameType, event: str, argument: object, seen: list[str] = events) -> None:
            seen.append(event)

        call()
        sys.setprofile(see)
        call()
        sys.setprofile(None)
        counts.append(sum(event in ("call", "c_call") for event in events))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", OPS)
def test_python_needs_no_memory_per_query(name: str) -> None:
    peaks = []
    for queries in QUERIES:
        call = OPS[name](make(queries))
        tracemalloc.start()
        peaks.append(min(peak_of(call) for _ in range(5)))
        tracemalloc.stop()
    # The smallest object takes 16 bytes.
    assert peaks[1] - peaks[0] < 16 * (QUERIES[1] - QUERIES[0])


def peak_of(call: Call) -> int:
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    call()
    return tracemalloc.get_traced_memory()[1] - before
