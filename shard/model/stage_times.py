"""Stage times: how long each stage of a batch took, and how many candidates it left.

Letters: B requests.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

STAGES = ("retrieve", "unite", "score", "value", "select")
"""In the order in which a request goes through them; one that has nothing to do is left out."""

Hook = Callable[[str, Tensor], None]
"""Called at the end of a stage with its name and the slots that it left, `[B, ...]`, -1 where there is none."""


def ignore(stage: str, slots: Tensor) -> None:
    """The hook of who wants to know nothing."""


class Stage(NamedTuple):
    """What one stage did for a batch.

    Attributes:
        name: of the stage.
        seconds: that it took. On a GPU that is the time of its launches.
        left: `[B]` int64 candidates that it left to each request; places of all tasks before they are united.
    """

    name: str
    seconds: float
    left: Tensor


class StageTimes:
    """A hook that takes the time since it was made or called last as the stage's; parts of a batch add up."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._slots: dict[str, list[Tensor]] = {}
        self._last = perf_counter()

    def __call__(self, stage: str, slots: Tensor) -> None:
        """Note the end of a stage for the next part of the batch; what it left is counted when it is asked for."""
        self.spent(stage)
        self._slots.setdefault(stage, []).append(slots)

    def spent(self, stage: str) -> None:
        """Add the time since the last call to a stage that goes on."""
        now = perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    @property
    def stages(self) -> list[Stage]:
        """The stages that have ended."""
        return [
            Stage(name, self._seconds[name], torch.cat([_count(slots) for slots in self._slots[name]]))
            for name in STAGES
            if name in self._slots
        ]


def _count(slots: Tensor) -> Tensor:
    return (slots >= 0).flatten(1).sum(dim=1)
