"""Candidates: what the tasks of a request have found, each item once.

Letters: B requests, T tasks, N slots found by a task, K = T N places of candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """The items to rank.

    Attributes:
        slots: `[B, K]` int64, each at most once in a row; -1 where there is none.
        found: `[B, K, T]` float32, the score with which each task found the item; -inf where it did not.
    """

    slots: Tensor
    found: Tensor


def packed(candidates: Candidates) -> Candidates:
    """The same without most of the empty places: as many are left as the fullest row has items, at least one.

    How many depends on the data, so a GPU would be waited for.
    """
    empty = candidates.slots < 0
    width = max(1, int((~empty).sum(dim=1).amax()))
    order = empty.byte().argsort(dim=1, stable=True)[:, :width]
    tasks = order[:, :, None].expand(-1, -1, candidates.found.shape[2])
    return Candidates(candidates.slots.gather(1, order), candidates.found.gather(1, tasks))


def unite(slots: Tensor, scores: Tensor) -> Candidates:
    """Join what the tasks of a request have found; all on the device, in one sort.

    Args:
        slots: `[B, T, N]` int64, each at most once for a task; -1 where there are no more.
        scores: `[B, T, N]` float32 of them.

    Returns:
        K = T N places, ascending by slot; the second and later places of an item are empty.

    Example:
        >>> unite(torch.tensor([[[7, 5], [5, -1]]]), torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])).slots
        tensor([[-1,  5, -1,  7]])
    """
    batch, tasks, kept = slots.shape
    ordered, order = slots.flatten(1).sort(dim=1, stable=True)
    first = ordered.diff(dim=1, prepend=ordered[:, :1] - 1) != 0
    places = torch.arange(tasks * kept, device=slots.device)
    heads = torch.where(first, places, 0).cummax(dim=1).values
    found = scores.new_full((batch, tasks * kept * tasks), -torch.inf)
    found.scatter_(1, heads * tasks + order // kept, scores.flatten(1).gather(1, order))
    return Candidates(torch.where(first, ordered, -1), found.view(batch, tasks * kept, tasks))
