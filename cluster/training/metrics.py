"""What TensorBoard shows of a run, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from silverray.shard.train.trainer import Step

_FLUSH_S = 10.0
"""What a killed run loses of its curves; a step of a few milliseconds must not wait for a disk each time."""


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

    They are written by the caller's thread, which hears of a full disk: tensorboardX's own one would end, and the run
    would wait for it for ever.

    Args:
        folder: to write to; made if need be.
        first_step: steps from here on replace those of an earlier attempt.

    Raises:
        OSError: it cannot be written, here and in every method.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix keeps an attempt that follows within a second from writing over the one before.
        self._writer = EventsWriter(str(folder / "events"), f".{first_step}")
        self._flushed = time.monotonic()
        self._writer.write_event(Event(step=first_step, file_version="brain.Event:2"))
        self._writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write_step(self, step: Step) -> None:
        """Note the losses of a step."""
        for name, loss in step.losses.items():
            self.write(f"loss/{name}", loss, step.number)

    def write(self, name: str, value: float, step: int) -> None:
        """Note a figure."""
        self._writer.write_event(Event(summary=scalar(name, value), step=step, wall_time=time.time()))
        if time.monotonic() - self._flushed >= _FLUSH_S:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()
