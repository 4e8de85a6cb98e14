"""The recall curve: how much of a catalog must be visited to find its nearest items. Letters: K depth, J depths."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class RecallCurve(NamedTuple):
    """Fraction of the items that must be visited, in probe order, to find the top K at the target recall.

    Attributes:
        depths: `[J]` float32 values of K, ascending.
        fractions: `[J]` float32, ascending, 0 to 1.
    """

    depths: Tensor
    fractions: Tensor

    def lines(self, held: float = 1.0) -> Tensor:
        """The curve as `plan_visits` takes it: `[3, J + 1]` float64.

        It is linear over log K between the measured depths and level before the first; past the last everything is
        visited.

        Args:
            held: share of the slots that hold an item. `plan_visits` tells a depth from the share of the slots that
                pass, so it finds depths in items `held` times as large as they are.
        """
        logs, fractions = self.depths.double().log() - math.log(held), self.fractions.double()
        slopes = fractions.diff() / logs.diff()
        level, end = logs.new_zeros(1), logs.new_full((1,), torch.inf)
        starts = torch.cat([fractions[:1], fractions[:-1] - slopes * logs[:-1], logs.new_ones(1)])
        return torch.stack([torch.cat([logs, end]), starts, torch.cat([level, slopes, level])])

    def fraction(self, depth: int) -> float:
        """The fraction that must be visited to find the top `depth`."""
        ends, starts, slopes = self.lines().tolist()
        place = next(place for place, end in enumerate(ends) if math.log(depth) <= end)
        return float(starts[place] + slopes[place] * math.log(depth))
