"""What is told while kernels are compiled."""

from pathlib import Path

import numba
import pytest

from silverray.cluster.serving import compiling
from silverray.shard.engine.engine import Engine


def test_every_kernel_that_is_compiled_is_told_and_those_on_disk_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = numba.njit(lambda number: number + 1)
    told: list[str] = []
    monkeypatch.setattr(Engine, "open", lambda *_, **__: kernel(1))
    compiling.compile_kernels(Path("snapshot"), told.append)
    stage = "compiling kernels, once per installation, 2 to 5 minutes"
    assert told == [f"{stage}: 0 done", f"{stage}: 1 done"]
    compiling.compile_kernels(Path("snapshot"), told.append)
    assert len(told) == 2
    kernel(1.0)
    assert len(told) == 2  # nobody listens any more
