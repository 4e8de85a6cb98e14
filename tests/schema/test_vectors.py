"""Item vectors are read as they are compared, in blocks, by threads that change nothing in what is found."""

import threading
from collections.abc import Generator
from typing import Literal

import numpy as np
import pytest
import torch

from silverray.shard.schema.vectors import BLOCK, ItemVectors, ZeroVectorError, to_unit_length
from silverray.shard.threads import in_threads


def random_vectors(n: int, dimension: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, dimension)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1.0, 1e37])
def test_unit_length_of_tiny_and_huge_vectors(scale: float) -> None:
    unit = to_unit_length(random_vectors(100) * np.float32(scale))
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, atol=1e-6)
    with pytest.raises(ZeroVectorError) as error:
        to_unit_length(np.array([[1, 0], [0, 0]], np.float32))
    assert error.value.row == 1


def test_scaling_twice_is_scaling_once() -> None:
    """Length 1 in float32 is not length 1 in float64: few dimensions show it."""
    rng = np.random.default_rng(0)
    for dimension in (1, 2, 3, 16, 128):
        once = to_unit_length(rng.standard_normal((20_000, dimension)).astype(np.float32))
        assert to_unit_length(once).tobytes() == once.tobytes()


@pytest.mark.parametrize("n", [0, 1, BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_blocks_and_rows_are_the_vectors_as_compared(n: int, metric: Literal["ip", "cosine"]) -> None:
    given = random_vectors(n)
    before = given.copy()
    given.flags.writeable = False
    vectors = ItemVectors(given, metric)
    wanted = torch.from_numpy(to_unit_length(before) if metric == "cosine" else before)
    blocks = list(vectors.map_blocks(lambda start, block: (start, block.clone())))
    assert [start for start, _ in blocks] == list(range(0, n, BLOCK))
    assert torch.equal(torch.cat([block for _, block in blocks]) if n else torch.empty(0, 6), wanted)
    places = np.random.default_rng(1).permutation(n)
    assert torch.equal(vectors.rows(places), wanted[places])
    assert np.array_equal(given, before)


@pytest.mark.parametrize("row", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_the_first_bad_row_is_named(row: int) -> None:
    cases: list[tuple[float, Literal["ip", "cosine"], str]] = [
        (np.nan, "ip", "holds NaN or infinity"),
        (-np.inf, "cosine", "holds NaN or infinity"),
        (0, "cosine", "a vector of zeros has no cosine"),
    ]
    for bad, metric, message in cases:
        given = random_vectors(3 * BLOCK)
        given[[row, 3 * BLOCK - 1]] = bad
        with pytest.raises(ValueError, match=f"vectors, row {row}: {message}"):
            ItemVectors(given, metric).check()
    largest = np.full((2, 3), np.finfo(np.float32).max)
    ItemVectors(largest, "cosine").check()


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
