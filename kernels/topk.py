"""Top-k in a total order: score descending, then key ascending. Letters: B rows, N candidates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels.ops import define, lazily


class TopK(NamedTuple):
    """The best candidates of each row.

    Attributes:
        scores: `[B, k]` float32, descending; -inf where a row has no more candidates.
        places: `[B, k]` int64 place of each among its row's candidates; -1 where there are no more.
    """

    scores: Tensor
    places: Tensor


def top_k(scores: Tensor, keys: Tensor, k: int) -> TopK:
    """Select the k best of each row by (score desc, key asc).

    Args:
        scores: `[B, N]` float32 without NaN; -inf marks a place without a candidate.
        keys: `[B, N]` or `[N]` int64, by which equal scores are ordered; no two candidates of a row have the same.
        k: how many, at least 0; more than N is fine.

    Returns:
        A `TopK`; the same on every device and for every batch.

    Raises:
        ValueError: a wrong dtype or shape.

    Example:
        >>> top_k(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([7, 9, 8]), 2).places
        tensor([[2, 1]])
    """
    if scores.dtype != torch.float32 or scores.dim() != 2:
        raise ValueError(f"scores: expected [B, N] float32, got {list(scores.shape)} {scores.dtype}")
    if keys.dtype != torch.int64 or keys.shape not in (scores.shape, scores.shape[1:]):
        raise ValueError(f"keys: expected {list(scores.shape)} int64, got {list(keys.shape)} {keys.dtype}")
    if k < 0:
        raise ValueError(f"k: expected 0 or more, got {k}")
    return TopK(*_top_k(scores, keys.expand_as(scores), k))


def warm_up(device: torch.device) -> None:
    """Compile the kernels of a device, so that no request waits for them."""
    for rows in (1, 2):
        top_k(torch.zeros(rows, 1, device=device), torch.zeros(1, dtype=torch.int64, device=device), 1)


def reference(scores: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`top_k` in plain PyTorch."""
    best = scores.new_full((len(scores), k), -torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    if min(k, scores.shape[1]) == 0:
        return best, index
    least = torch.topk(scores, min(k, scores.shape[1]), dim=1, sorted=False).values.amin(1, keepdim=True)
    # Ties with the k-th score are all kept here, so that keys can decide between them.
    rows, places = torch.nonzero((scores >= least) & (scores > -torch.inf), as_tuple=True)
    kept = scores[rows, places]
    order = torch.argsort(keys[rows, places], stable=True)
    order = order[torch.argsort(kept[order], descending=True, stable=True)]
    order = order[torch.argsort(rows[order], stable=True)]
    rows, places, kept = rows[order], places[order], kept[order]
    counts = torch.bincount(rows, minlength=len(scores))
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    wanted = rank < k
    best[rows[wanted], rank[wanted]] = kept[wanted]
    index[rows[wanted], rank[wanted]] = places[wanted]
    return best, index


_top_k = define(
    "top_k",
    reference,
    cpu=lazily("cpu.topk.launch"),
    fake=lambda scores, keys, k: (scores.new_empty(scores.shape[0], k), keys.new_empty(scores.shape[0], k)),
)
