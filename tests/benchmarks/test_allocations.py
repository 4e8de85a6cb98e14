import numba
import numpy as np
import torch

from silverray.benchmarks.scan.allocations import Allocations, count_allocations


@numba.njit  # type: ignore[untyped-decorator]
def _fill(count: int) -> float:
    total = 0.0
    for number in range(count):
        total += np.zeros(number + 100).sum()
    return total


def test_every_tensor_and_every_array_is_counted() -> None:
    kept: list[torch.Tensor] = []
    assert count_allocations(lambda: kept.extend(torch.empty(1_000) for _ in range(3))) == Allocations(3, 0)
    assert count_allocations(lambda: _fill(5)) == Allocations(0, 5)
    assert count_allocations(lambda: None) == Allocations(0, 0)
