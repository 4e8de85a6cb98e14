"""Diversification against a greedy reference that projects by least squares, and what must hold for any list."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.model.diversity import Diversity

Array = NDArray[Any]


@dataclass
class Ranked:
    """One list in score order: `[N]` scores, `[N, D]` embeddings, `[F, N]` codes."""

    scores: Array
    vectors: Array
    codes: Array

    @classmethod
    def make(cls, seed: int, n: int = 60, dimension: int = 8, fields: int = 0) -> "Ranked":
        """Items in a few groups, a fifth of them copies or nearly so, some of them without a value."""
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(max(1, n // 10), dimension))
        vectors = centres[rng.integers(0, len(centres), n)] + 0.3 * rng.normal(size=(n, dimension))
        for copies, spread in ((rng.random(n) < 0.1, 0.0), (rng.random(n) < 0.1, 1e-3)):
            vectors[copies] = vectors[rng.integers(0, n, copies.sum())]
            vectors[copies] += spread * rng.normal(size=(copies.sum(), dimension))
        codes = rng.integers(-1, 5, (fields, n))
        scores = np.sort(rng.normal(size=n).astype(np.float32))[::-1]
        return cls(scores.copy(), vectors.astype(np.float32), codes)


def gains(ranked: Ranked, placed: list[int], strength: float, window: int, weights: tuple[float, ...]) -> Array:
    """What every item would bring next, as the module's documentation says it."""
    units = ranked.vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    near = units[placed[-(window - 1) :]]
    solved = np.linalg.lstsq(near.T, units.T, rcond=1e-9)[0] if len(near) else np.zeros((0, len(units)))
    novelty = np.linalg.norm(units.T - near.T @ solved, axis=0)
    spacing = np.zeros(len(units))
    for weight, values in zip(weights, ranked.codes, strict=True):
        for item, value in enumerate(values):
            gaps = [gap for gap, other in enumerate(reversed(placed), 1) if value >= 0 and values[other] == value]
            spacing[item] += weight * max(0.0, 1 - (gaps[0] - 1) / window) if gaps else 0.0
    total: Array = ranked.scores + strength * (novelty - spacing)
    return total


def greedy(ranked: Ranked, strength: float, window: int, k: int, weights: tuple[float, ...] = ()) -> list[int]:
    placed: list[int] = []
    for _ in range(min(k, len(ranked.scores))):
        gain = gains(ranked, placed, strength, window, weights)
        gain[placed] = -np.inf
        placed.append(int(gain.argmax()))
    return placed


def diversify(
    lists: list[Ranked], strength: float | list[float], k: int, window: int = 5, weights: tuple[float, ...] = ()
) -> list[list[int]]:
    """Orders of lists of any lengths, padded with what must not matter."""
    n, rng = max(len(one.scores) for one in lists), np.random.default_rng(0)
    scores = torch.full((len(lists), n), 1e9)
    vectors = torch.from_numpy(rng.normal(size=(len(lists), n, lists[0].vectors.shape[1])).astype(np.float32))
    codes = torch.zeros(len(lists), len(weights), n, dtype=torch.int64)
    valid = torch.zeros(len(lists), n, dtype=torch.bool)
    for row, one in enumerate(lists):
        size = len(one.scores)
        scores[row, :size], vectors[row, :size] = torch.from_numpy(one.scores), torch.from_numpy(one.vectors)
        codes[row, :, :size], valid[row, :size] = torch.from_numpy(one.codes), True
    strengths = torch.tensor(strength).expand(len(lists)).contiguous()
    order = Diversity(window, weights)(scores, vectors, valid, strengths, k, codes)
    assert order.shape == (len(lists), k) and order.dtype == torch.int64
    return [[place for place in row if place >= 0] for row in order.tolist()]


@pytest.mark.parametrize("window", [2, 3, 10, 64])
@pytest.mark.parametrize(("n", "dimension"), [(1, 3), (2, 1), (40, 2), (63, 8), (100, 32)])
@pytest.mark.parametrize("weights", [(), (0.7,), (0.0, 2.5)])
def test_it_agrees_with_the_reference(window: int, n: int, dimension: int, weights: tuple[float, ...]) -> None:
    strengths, k = [0.1, 0.5, 3.0], min(n, 40)
    lists = [Ranked.make(seed, n, dimension, len(weights)) for seed in range(3)]
    expected = [greedy(one, its, window, k, weights) for one, its in zip(lists, strengths, strict=True)]
    assert diversify(lists, strengths, k, window, weights) == expected


def test_strength_0_changes_nothing() -> None:
    lists = [Ranked.make(seed, 50, fields=2) for seed in range(20)]
    for ranked in lists:
        ranked.scores = ranked.scores.round(1)  # many equal scores
    assert diversify(lists, 0.0, 50, weights=(1.0, 2.0)) == [list(range(50))] * 20
    for seed, ranked in enumerate(lists):
        ranked.scores = np.random.default_rng(seed).permutation(ranked.scores)
    by_score = [np.argsort(-ranked.scores, kind="stable").tolist() for ranked in lists]
    assert diversify(lists, 0.0, 50, weights=(1.0, 2.0)) == by_score


def similarity(ranked: Ranked, order: list[int], window: int) -> float:
    """Mean absolute cosine of items that are less than a window apart."""
    units = ranked.vectors[order] / np.linalg.norm(ranked.vectors[order], axis=1, keepdims=True)
    pairs = [abs(units[i] @ units[j]) for i in range(len(order)) for j in range(i + 1, min(len(order), i + window))]
    return float(np.mean(pairs))


@pytest.mark.parametrize("window", [3, 8])
def test_similarity_falls_as_strength_rises(window: int) -> None:
    lists = [Ranked.make(seed, 100, 16) for seed in range(24)]
    means = []
    for strength in (0.0, 0.1, 0.3, 1.0):
        orders = diversify(lists, strength, 20, window)
        means.append(np.mean([similarity(one, its, window) for one, its in zip(lists, orders, strict=True)]))
    assert all(later < earlier - 0.005 for earlier, later in pairwise(means)), means
    assert means[-1] < 0.85 * means[0], means


def test_an_order_depends_on_its_own_list_alone() -> None:
    lists = [Ranked.make(seed, n, 12, 2) for seed, n in enumerate([1, 5, 64, 33, 64, 100, 17])]
    strengths, weights = [0.0, 0.3, 1.0, 0.3, 5.0, 0.1, 0.7], (0.5, 1.0)
    together = diversify(lists, strengths, 40, weights=weights)
    for ranked, strength, order in zip(lists, strengths, together, strict=True):
        assert diversify([ranked], strength, 40, weights=weights) == [order]
        assert diversify([ranked], strength, 7, weights=weights) == [order[:7]]
        assert len(order) == min(40, len(ranked.scores)) == len(set(order))


def test_copies_wait_until_the_window_has_passed() -> None:
    axes = np.eye(6, dtype=np.float32)
    ranked = Ranked(
        np.array([1.0, 0.99, 0.98, 0.5, 0.4, 0.3, 0.2], dtype=np.float32),
        np.stack([axes[0], 3 * axes[0], axes[0], axes[1], axes[2], axes[3], axes[4]]),
        np.zeros((0, 7), dtype=np.int64),
    )
    assert diversify([ranked], 2.0, 7, window=3) == [[0, 3, 4, 1, 5, 6, 2]]
    assert diversify([ranked], 2.0, 7, window=4) == [[0, 3, 4, 5, 1, 6, 2]]
    # Copies of one another with equal scores stand in the order of the list.
    ranked.scores[:3] = 1.0
    assert diversify([ranked], 0.1, 7, window=4) == [[0, 1, 2, 3, 4, 5, 6]]


def test_spacing_separates_equal_categories() -> None:
    n = 12
    ranked = Ranked(
        np.linspace(1, 0.99, n, dtype=np.float32),
        np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (n, 1)),
        np.array([[7] * 6 + [3] * 6]),
    )
    (order,) = diversify([ranked], 1.0, n, weights=(1.0,))
    assert order == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    # The loss is weighed against scores, and fades with the distance: a third of the way at the third place.
    ranked = Ranked(
        np.array([1.0, 0.9, 0.25, 0.2], dtype=np.float32), np.ones((4, 2), dtype=np.float32), np.array([[5, 5, 6, 8]])
    )
    assert diversify([ranked], 1.0, 4, window=3, weights=(0.6,)) == [[0, 1, 2, 3]]
    assert diversify([ranked], 1.0, 4, window=3, weights=(0.7,)) == [[0, 2, 1, 3]]
    assert diversify([ranked], 1.0, 4, window=3, weights=(1.1,)) == [[0, 2, 3, 1]]
    ranked.codes = np.array([[-1, -1, 6, 8]])  # what has no value is equal to nothing
    assert diversify([ranked], 1.0, 4, window=3, weights=(1.1,)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e38])
def test_unusable_embeddings_are_not_new(bad: float) -> None:
    ranked = Ranked.make(3, 30)
    expected = Ranked.make(3, 30)
    ranked.vectors[4] = bad
    (order,) = diversify([ranked], 1.0, 30)
    assert sorted(order) == list(range(30))
    if bad == 1e38:  # large, but a direction like any other
        expected.vectors[4] = 1
        assert order == greedy(expected, 1.0, 5, 30)
    else:
        others = Ranked(np.delete(expected.scores, 4), np.delete(expected.vectors, 4, axis=0), expected.codes[:, :29])
        (rest,) = diversify([others], 1.0, 29)
        placed = order.index(4)
        assert [place - (place > 4) for place in order[:placed]] == rest[:placed]


def test_unusable_scores_come_last() -> None:
    ranked = Ranked.make(4, 10)
    ranked.scores[[1, 2, 5]] = np.nan, -np.inf, np.inf
    (order,) = diversify([ranked], 1.0, 10)
    assert order[0] == 5 and set(order[-2:]) == {1, 2} and sorted(order) == list(range(10))


def test_no_items_and_no_places() -> None:
    module, empty = Diversity(4), torch.zeros(2, 3, dtype=torch.bool)
    given = (torch.zeros(2, 3), torch.zeros(2, 3, 4), empty, torch.ones(2))
    assert module(*given, 5).tolist() == [[-1] * 5] * 2
    assert module(*given, 0).shape == (2, 0)


def make_inputs(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    scores = torch.randn(2, n, generator=g)
    return scores, torch.randn(2, n, 6, generator=g), torch.rand(2, n, generator=g) < 0.9, torch.tensor([0.4, 2.0])


def test_it_compiles_and_exports_as_one_graph() -> None:
    torch.compiler.reset()
    module = Diversity(3, (0.5,))
    codes = torch.randint(-1, 4, (2, 1, 20), generator=torch.Generator().manual_seed(1))
    inputs = make_inputs(20)
    expected = module(*inputs, 6, codes)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, 6, codes), expected, rtol=0, atol=0)
    exported = torch.export.export(module, (*inputs, 6, codes)).module()
    torch.testing.assert_close(exported(*inputs, 6, codes), expected, rtol=0, atol=0)


def test_wrong_arguments_are_refused_by_name() -> None:
    scores, vectors, valid, strength = make_inputs(9)
    module = Diversity(4, (1.0,))
    codes = torch.zeros(2, 1, 9, dtype=torch.int64)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((scores.double(), vectors, valid, strength, 3, codes), "scores: expected"),
        (
            (scores[:, :0], vectors[:, :0], valid[:, :0], strength, 3, codes[..., :0]),
            "scores: expected 1 to 1000 items",
        ),
        ((torch.zeros(1, 1_001), vectors, valid, strength, 3, codes), "got 1001"),
        ((scores, vectors[:1], valid, strength, 3, codes), "embeddings: expected"),
        ((scores, vectors, valid.int(), strength, 3, codes), "valid: expected"),
        ((scores, vectors, valid, strength[:1], 3, codes), "strength: expected"),
        ((scores, vectors, valid, strength, 3), "codes: expected"),
        ((scores, vectors, valid, strength, 3, codes[:, 0]), "codes: expected"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            module(*arguments)
    for window in (1, 65):
        with pytest.raises(ValueError, match=f"window: expected 2 to 64, got {window}"):
            Diversity(window)
    for weight in (-0.1, float("nan"), float("inf"), 2e9):
        with pytest.raises(ValueError, match=r"weights: expected 0 to 1e\+09"):
            Diversity(4, (1.0, weight))
