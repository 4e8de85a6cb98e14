"""Brute force, and recall that ties do not distort."""

import numpy as np
import pytest

from silverray.benchmarks.common import truth
from silverray.benchmarks.common.truth import Truth, brute_force, recall

# Rows 1 and 2 are equal, row 3 differs from them by less than the tolerance.
VECTORS = np.array([[1, 0], [0.5, 0], [0.5, 0], [0.499999, 0], [0.1, 0]], np.float32)
QUERY = np.array([[1, 0]], np.float32)


def found(*items: int) -> np.ndarray:
    return np.array([items], dtype=np.int64)


def test_any_of_equal_items_counts() -> None:
    true = brute_force(VECTORS, QUERY, 2)
    assert true.items[0, 0] == 0
    assert np.array_equal(true.scores, np.array([[1, 0.5]], np.float32))
    for second in (1, 2, 3):
        assert recall(VECTORS, QUERY, found(0, second), true) == 1
    assert recall(VECTORS, QUERY, found(0, 4), true) == 0.5
    assert recall(VECTORS, QUERY, found(0, -1), true) == 0.5


def test_an_item_counts_once() -> None:
    true = brute_force(VECTORS, QUERY, 3)
    assert recall(VECTORS, QUERY, found(0, 0, 0), true) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"expected \[1, 3\], got \[1, 2\]"):
        recall(VECTORS, QUERY, found(0, 1), true)


def test_items_that_a_filter_excludes_do_not_count() -> None:
    passing = np.array([False, True, False, False, True])
    true = brute_force(VECTORS, QUERY, 3, passing)
    assert true.items.tolist() == [[1, 4, -1]]
    assert true.scores[0, 2] == -np.inf
    assert recall(VECTORS, QUERY, found(1, 4, -1), true, passing) == 1
    assert recall(VECTORS, QUERY, found(0, 1, 2), true, passing) == 0.5
    nothing = np.zeros(5, bool)
    assert recall(VECTORS, QUERY, found(0, 1, 2), brute_force(VECTORS, QUERY, 3, nothing), nothing) == 1


def test_blocks_find_what_one_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "BLOCK", 64)
    rng = np.random.default_rng(0)
    vectors, asked = (rng.normal(size=(n, 8)).astype(np.float32) for n in (1_001, 7))
    passing = rng.random(1_001) < 0.3
    for mask in (None, passing):
        scores = asked @ vectors.T
        if mask is not None:
            scores[:, ~mask] = -np.inf
        true = brute_force(vectors, asked, 50, mask)
        assert np.array_equal(true.items, np.argsort(-scores, axis=1)[:, :50])
        assert np.allclose(true.scores, -np.sort(-scores, axis=1)[:, :50], atol=1e-6)
        assert isinstance(true.top(5), Truth)
        assert np.array_equal(true.top(5).items, true.items[:, :5])
