"""What a trainer asks of the processes that train together; alone, there is nothing to ask."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Workers(Protocol):
    """The processes that train one model, each on its part of every batch.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    def join(self, module: nn.Module) -> nn.Module:
        """The module with its weights as they are in process 0 and gradients that are means over the processes."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes (`[n, ...]` of each, n may differ), in the order of ranks, with gradients."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, without gradients."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def join(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values
