"""The union of the lists that several tasks have found for a request, each item once.

Letters: B requests, T tasks, N slots found by a task, K = T N places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels.ops import define, lazily


class United(NamedTuple):
    """The items of each request, in the order in which the lists first name them, one list after another.

    Attributes:
        slots: `[B, K]` int64, each at most once in a row; then -1.
        found: `[B, K, T]` float32, the score of the item in each list; -inf where it is not in it.
    """

    slots: Tensor
    found: Tensor


def unite(slots: Tensor, scores: Tensor) -> United:
    """Join lists; nothing waits for a device.

    Args:
        slots: `[B, T, N]` int64, each at most once in a list; -1 where there are no more.
        scores: `[B, T, N]` float32 of them.

    Raises:
        ValueError: a wrong dtype or shape.

    Example:
        >>> unite(torch.tensor([[[7, 5], [5, -1]]]), torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])).slots
        tensor([[ 7,  5, -1, -1]])
    """
    if slots.dim() != 3 or slots.shape != scores.shape:
        raise ValueError(f"slots, scores: expected [B, T, N] both, got {[*slots.shape]} and {[*scores.shape]}")
    if slots.dtype != torch.int64 or scores.dtype != torch.float32:
        raise ValueError(f"slots, scores: expected int64 and float32, got {slots.dtype} and {scores.dtype}")
    return United(*_unite(slots, scores))


def reference(slots: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`unite` in plain PyTorch, by one sort."""
    batch, tasks, kept = slots.shape
    places = tasks * kept
    ordered, order = slots.flatten(1).sort(dim=1, stable=True)
    first = (ordered != ordered.roll(1, dims=1)) | (torch.arange(places, device=slots.device) == 0)
    first &= ordered >= 0
    heads = torch.where(first, torch.arange(places, device=slots.device), 0).cummax(dim=1).values
    # By place in the lists: how many items have been named before.
    before = torch.zeros_like(first).scatter(1, order, first).cumsum(dim=1) - 1
    targets = torch.where(ordered >= 0, before.gather(1, order.gather(1, heads)), places)  # one place more, for no item
    items = slots.new_full((batch, places + 1), -1).scatter(1, torch.where(first, targets, places), ordered)
    found = scores.new_full((batch, (places + 1) * tasks), -torch.inf)
    found = found.scatter(1, targets * tasks + order // max(kept, 1), scores.flatten(1).gather(1, order))
    return items[:, :places].contiguous(), found.view(batch, places + 1, tasks)[:, :places].contiguous()


_unite = define(
    "unite",
    reference,
    cpu=lazily("cpu.union.launch"),
    fake=lambda slots, scores: (
        slots.new_empty(slots.shape[0], slots.shape[1] * slots.shape[2]),
        scores.new_empty(slots.shape[0], slots.shape[1] * slots.shape[2], slots.shape[1]),
    ),
)
