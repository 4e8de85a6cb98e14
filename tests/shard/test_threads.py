"""Threads that compute beside others."""

import os
import sys
import threading
from collections.abc import Generator

import pytest
import torch

from silverray.shard.threads import NICE, in_threads, single_worker


def test_a_worker_computes_on_one_thread_and_leaves_the_others_theirs() -> None:
    before = torch.get_num_threads()
    with single_worker("test") as worker:
        assert worker.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_background_worker_stands_back_alone() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = priority()
    with single_worker("test", background=True) as worker:
        assert worker.submit(priority).result() == max(own, NICE)
    assert priority() == own


def test_threads_answer_in_order_compute_alone_and_leave_the_setting_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = list(in_threads(lambda number: (number, torch.get_num_threads(), threading.get_ident()), range(200)))
        assert [number for number, _, _ in seen] == list(range(200))
        assert {threads for _, threads, _ in seen} == {1}
        assert torch.get_num_threads() == 3

        def fail(number: int) -> int:
            return 1 // (number - 20)

        with pytest.raises(ZeroDivisionError):
            list(in_threads(fail, range(1_000)))
        assert torch.get_num_threads() == 3
        assert list(in_threads(lambda _: torch.get_num_threads(), range(2))) == [1, 1]
    finally:
        torch.set_num_threads(before)


def test_results_do_not_pile_up() -> None:
    started: list[int] = []
    results = in_threads(started.append, range(1_000))
    assert isinstance(results, Generator)
    next(results)
    assert len(started) <= 2 * torch.get_num_threads() + 1
    results.close()
