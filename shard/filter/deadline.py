"""Until when a filter may be compiled."""

from __future__ import annotations

import math
import time

from silverray.shard.api import DeadlineExceeded


class Deadline:
    """A moment that whoever works looks at often; no step between two looks takes more than some milliseconds.

    Args:
        moment: on the clock of `time.monotonic`.
    """

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def check(self) -> None:
        """Raise DeadlineExceeded where it is over."""
        if time.monotonic() >= self._moment:
            raise DeadlineExceeded("the filter was not compiled in time")


NEVER = Deadline(math.inf)
"""No deadline."""
