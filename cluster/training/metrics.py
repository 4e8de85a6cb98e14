"""What TensorBoard shows of a run, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tensorboardX import SummaryWriter

from silverray.shard.train.trainer import Step


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done: requests trained on, over all epochs.
        total: of how many.
        losses: of the last step, by objective.
    """

    done: int
    total: int
    losses: Mapping[str, float]


Tell = Callable[[Progress], None]
"""Is told of every step."""


class MetricsLog:
    """Writes a run's figures as TensorBoard reads them: `tensorboard --logdir OUT/metrics`.

    Args:
        folder: to write to.
        first_step: steps from here on replace those of an earlier attempt.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # The suffix keeps an attempt that follows within a second from writing over the one before.
        suffix = f".{first_step}"
        self._writer = SummaryWriter(str(folder), purge_step=first_step, flush_secs=10, filename_suffix=suffix)

    def write_step(self, step: Step) -> None:
        """Note the losses of a step."""
        for name, loss in step.losses.items():
            self._writer.add_scalar(f"loss/{name}", loss, step.number)

    def write(self, name: str, value: float, step: int) -> None:
        """Note a figure."""
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()
