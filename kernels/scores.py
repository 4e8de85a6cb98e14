"""Exact scores: the fixed-order float32 dot product.

Letters: N items, Q queries, D dimensions, M pairs; B requests, T tasks, K candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.ops import define, lazily

PAIRS_AT_A_TIME = 1 << 16
"""Pairs that the reference gathers and multiplies at a time: 64 MiB of products with 128 dimensions in float64."""


def exact_scores(vectors: Tensor, queries: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """Score pairs of query and item by the dot product, summed in a fixed order.

    The D products are padded with zeros to a power of two; then the second half is added to the first until one
    number is left. Every product and sum is rounded to float32, so the score of a pair is the same bit for bit
    whatever batch, shard or device it is computed in.

    Args:
        vectors: `[N, D]` float32 or bfloat16, the item cache.
        queries: `[Q, D]` float32.
        rows: `[M]` int64, the query of each pair.
        slots: `[M]` int64, the item of each pair; -1 gives -inf.

    Returns:
        `[M]` float32.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads D elements of the cache per pair.
    """
    if vectors.dim() != 2 or queries.shape[1:] != vectors.shape[1:]:
        raise ValueError(f"queries: expected [Q, {vectors.shape[1]}], got {list(queries.shape)}")
    if rows.shape != slots.shape or rows.dim() != 1:
        raise ValueError(f"slots: expected {list(rows.shape)}, got {list(slots.shape)}")
    scores: Tensor = _exact_scores(vectors, queries, rows, slots)
    return scores


def reference(vectors: Tensor, queries: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """`exact_scores` in plain PyTorch."""
    if not len(vectors):
        return queries.new_full((len(slots),), -torch.inf)
    scores = queries.new_empty(len(slots))
    for start in range(0, len(slots), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        items = vectors[slots[part].clamp(min=0)].float()
        scores[part] = halving_sum(items.mul_(queries[rows[part]]))
    return scores.masked_fill_(slots < 0, -torch.inf)


def halving_sum(products: Tensor) -> Tensor:
    """Sum the last dimension by adding its second half to its first until one number is left.

    Args:
        products: `[M, D]` float32.

    Returns:
        `[M]` float32.
    """
    width = 1 << max(0, products.shape[1] - 1).bit_length()
    sums = torch.nn.functional.pad(products, (0, width - products.shape[1]))
    while width > 1:
        width //= 2
        sums = sums[:, :width] + sums[:, width:]
    return sums[:, 0]


def dot_products(users: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """Score candidates for every task by the dot product, bit for bit as `exact_scores` does.

    Args:
        users: `[B, T, D]` float32.
        vectors: `[N, D]` float32 or bfloat16, the item cache.
        slots: `[B, K]` int64, the candidates; -1 gives -inf.

    Returns:
        `[B, K, T]` float32.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads D elements of the cache per candidate.
    """
    if users.dim() != 3 or vectors.dim() != 2 or users.shape[2] != vectors.shape[1]:
        raise ValueError(f"users, vectors: expected [B, T, D] and [N, D], got {[*users.shape]} and {[*vectors.shape]}")
    if slots.dim() != 2 or slots.shape[0] != users.shape[0]:
        raise ValueError(f"slots: expected [{users.shape[0]}, K], got {[*slots.shape]}")
    types = users.dtype, vectors.dtype, slots.dtype
    if types not in ((torch.float32, torch.float32, torch.int64), (torch.float32, torch.bfloat16, torch.int64)):
        raise ValueError(f"users, vectors, slots: expected float32, float32 or bfloat16, and int64, got {types}")
    scores: Tensor = _dot_products(users, vectors, slots)
    return scores


def dot_products_reference(users: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """`dot_products` in plain PyTorch."""
    shape = (*slots.shape, users.shape[1])
    if not len(vectors):
        return users.new_full(shape, -torch.inf)
    items = vectors.index_select(0, slots.flatten().clamp(min=0)).float().view(*slots.shape, vectors.shape[1])
    tasks = [halving_sum((items * users[:, task, None]).flatten(0, 1)) for task in range(users.shape[1])]
    return torch.stack(tasks, dim=1).view(shape).masked_fill(slots[:, :, None] < 0, -torch.inf)


_dot_products = define(
    "dot_products",
    dot_products_reference,
    cpu=lazily("cpu.scores.launch"),
    fake=lambda users, slots, **_: users.new_empty(*slots.shape, users.shape[1]),
)
_exact_scores = define(
    "exact_scores",
    reference,
    cuda=lazily("gpu.scores.launch"),
    fake=lambda queries, slots, **_: queries.new_empty(slots.shape[0]),
)
