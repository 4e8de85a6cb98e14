"""Scoring centroids: coarsely, to choose among all of them, and exactly, for those that are chosen.

Letters: C clusters, D dimensions, Q queries, P probes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.checks import check
from silverray.kernels.codes import quantize_rows
from silverray.kernels.ops import define, lazily
from silverray.kernels.scores import exact_scores

EXACT_FLOAT_SUM = 1 << 24
"""Integers up to here are exact in float32."""


def score_centroids(codes: Tensor, scales: Tensor, queries: Tensor) -> Tensor:
    """Score all centroids in int8: by these a query chooses its probes, the same ones in any batch.

    Args:
        codes: `[C, D]` int8 and
        scales: `[C]` float32, the centroids as `quantize_rows` makes them.
        queries: `[Q, D]` float32, quantised alike.

    Returns:
        `[Q, C]` float32, `scale(q) · scale(c) · dot`.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads the codes once per batch.
    """
    check("codes", codes, torch.int8, None, None)
    check("scales", scales, torch.float32, len(codes))
    check("queries", queries, torch.float32, None, codes.shape[1])
    scores: Tensor = _score_centroids(codes, scales, queries)
    return scores


def reference(codes: Tensor, scales: Tensor, queries: Tensor) -> Tensor:
    """`score_centroids` in plain PyTorch: the specification."""
    coded = quantize_rows(queries)
    return coded.scales[:, None] * scales * int8_products(coded.values, codes) + 0.0


_score_centroids = define(
    "score_centroids",
    reference,
    cpu=lazily("cpu.centroids.launch"),
    fake=lambda codes, queries, **_: queries.new_empty(queries.shape[0], codes.shape[0]),
)


def int8_products(queries: Tensor, codes: Tensor) -> Tensor:
    """Dot products `[Q, C]` float32 of int8 rows: exact integers, rounded once."""
    exact = torch.float32 if codes.shape[1] * 127 * 127 <= EXACT_FLOAT_SUM else torch.float64
    return (queries.to(exact) @ codes.to(exact).T).float()


def probed_scores(centroids: Tensor, queries: Tensor, probes: Tensor) -> Tensor:
    """The exact scores `[Q, C]` of the centroids that are probed (`[Q, P]` int64, -1 is none); 0 for the others.

    They are those of `exact_scores`, so a list's items score the same whatever batch probes it.
    """
    rows, columns = torch.nonzero(probes >= 0, as_tuple=True)
    clusters = probes[rows, columns]
    scores = queries.new_zeros(len(queries), len(centroids))
    scores[rows, clusters] = exact_scores(centroids, queries, rows, clusters)
    return scores
