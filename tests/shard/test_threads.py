"""Threads that compute beside others."""

import os
import sys
import threading

import pytest
import torch

from silverray.shard.threads import NICE, single_worker


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
