"""Processes that train together, over `torch.distributed`; implements `Workers`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class DistributedWorkers:
    """The processes of the default process group, which must be there.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self) -> None:
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()
        # A group of its own: backward reduces gradients at the same time, in the default group.
        self._gathers = dist.new_group()

    def join(self, module: nn.Module) -> nn.Module:
        """See `Workers`."""
        return DistributedDataParallel(module, broadcast_buffers=False)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Workers`."""
        gathered: Tensor = _Gather.apply(rows, self._gathers)  # type: ignore[no-untyped-call]
        return gathered

    def sum(self, values: Tensor) -> Tensor:
        """See `Workers`."""
        total = values.clone()
        dist.all_reduce(total, group=self._gathers)
        return total


class _Gather(torch.autograd.Function):
    """Rows of all ranks, in their order; each rank's gradient is the sum of what all ranks say of its rows."""

    @staticmethod
    def forward(context: Any, rows: Tensor, group: Any) -> Tensor:
        mine = torch.tensor([len(rows)])
        counts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(counts, mine, group=group)
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=group)
        rank = dist.get_rank(group)
        context.group, context.mine = group, slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=context.group)
        return total[context.mine], None
