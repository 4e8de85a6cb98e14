"""Scoring centroids: the kernel against the reference, and the reference against integers."""

import numpy as np
import pytest
import torch

from silverray.kernels.centroids import probed_scores, reference, score_centroids
from silverray.kernels.codes import quantize_rows
from silverray.kernels.scores import exact_scores

from .cases import THREADS, threads


@pytest.mark.parametrize("d", [1, 16, 50, 64, 128, 300, 1100])
@pytest.mark.parametrize(("clusters", "queries"), [(1, 1), (15, 3), (16, 2), (129, 9), (1000, 5)])
def test_the_kernel_agrees_with_the_reference(d: int, clusters: int, queries: int) -> None:
    g = torch.Generator().manual_seed(d + clusters)
    codes, scales = quantize_rows(torch.randn(clusters, d, generator=g))
    asked = (
        torch.randn(queries, d, generator=g) * torch.tensor([1e-42, 1.0, 1e30, 0.0])[torch.arange(queries) % 4, None]
    )
    expected = reference(codes, scales, asked)
    for number in THREADS:
        with threads(number):
            np.testing.assert_array_equal(score_centroids(codes, scales, asked).numpy(), expected.numpy())
    wide = torch.zeros(2 * clusters + 1, 2 * d + 3, dtype=torch.int8)
    view = wide[1::2, 1 : 2 * d : 2].copy_(codes)
    np.testing.assert_array_equal(score_centroids(view, scales, asked).numpy(), expected.numpy())


def test_no_queries() -> None:
    codes, scales = quantize_rows(torch.randn(20, 8))
    assert score_centroids(codes, scales, torch.empty(0, 8)).shape == (0, 20)


def test_the_reference_is_made_of_whole_numbers() -> None:
    g = torch.Generator().manual_seed(0)
    codes, scales = quantize_rows(torch.randn(30, 90, generator=g))
    asked = torch.randn(4, 90, generator=g)
    coded = quantize_rows(asked)
    dots = (coded.values.long() @ codes.long().T).float()
    assert torch.equal(reference(codes, scales, asked), coded.scales[:, None] * scales * dots)
    assert (reference(codes, scales, asked) - asked @ (scales[:, None] * codes).T).abs().max() < 0.5


def test_probed_scores_are_exact_where_probed_and_zero_elsewhere() -> None:
    g = torch.Generator().manual_seed(1)
    centroids, queries = torch.randn(9, 33, generator=g), torch.randn(3, 33, generator=g)
    scores = probed_scores(centroids, queries, torch.tensor([[4, -1], [0, 8], [-1, -1]]))
    rows, clusters = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 8])
    assert torch.equal(scores[rows, clusters], exact_scores(centroids, queries, rows, clusters))
    scores[rows, clusters] = 0
    assert not scores.any()
