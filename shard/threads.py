"""Work spread over threads, each computing on one."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

NICE = 10
"""Priority of background threads, as `nice` counts: 0 is that of the others, 19 the lowest."""

Input = TypeVar("Input")
Result = TypeVar("Result")


def in_threads(work: Callable[[Input], Result], inputs: Iterable[Input]) -> Iterator[Result]:
    """Call a function for each input, on as many threads as torch has, each call computing on one.

    So what a call returns does not depend on the number of threads. Few results wait to be taken.

    Args:
        work: called with one input; writes only what no other call reads or writes.
        inputs: what to call it with.

    Yields:
        The results, in the order of the inputs.
    """
    threads = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for given in inputs:
                waiting.append(pool.submit(work, given))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        # Setting a thread's number also sets the default of threads that torch has not seen yet.
        torch.set_num_threads(threads)


def single_worker(name: str, *, background: bool = False) -> ThreadPoolExecutor:
    """An executor of one thread, which computes on one, whatever the others do.

    Args:
        name: of the thread.
        background: whether it gets out of the way of the process's other threads where processors are busy; on Linux.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))
    pool.submit(_settle, background).result()
    torch.set_num_threads(threads)  # as above
    return pool


def _settle(background: bool) -> None:
    """Prepare the calling thread; a low priority, as at the lowest it might not get on."""
    torch.get_num_threads()  # from here on torch has seen it, and leaves it its number
    if background and sys.platform == "linux":  # elsewhere threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
