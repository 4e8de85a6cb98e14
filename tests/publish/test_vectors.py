"""Item vectors are read as they are compared, in blocks."""

from typing import Literal

import numpy as np
import pytest
import torch

from silverray.shard.publish.vectors import BLOCK, ItemVectors
from silverray.shard.schema.vectors import to_unit_length


def random_vectors(n: int, dimension: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, dimension)).astype(np.float32)


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
