"""What waits before the router, and in which order it is served or given up; without a clock of its own."""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

Waiter = TypeVar("Waiter")

SHORT = 0.1
"""The patience while a backlog stands, as a part of the usual one: a queue that never empties is not a burst that will
pass, and a client that is refused soon can ask elsewhere (the rule of "Fail at scale", ACM Queue 2015)."""


class _Entry(NamedTuple, Generic[Waiter]):
    since: float
    waiter: Waiter


class Backlog(Generic[Waiter]):
    """Waiters by age: the oldest is served first until it has waited long, then the newest.

    Under overload somebody waits in vain. Served in the order of arrival it is everybody, since each is answered when
    its time is all but up; newest first, those who are served are served in time. Who has waited longer than the
    patience is given up, which becomes short where the backlog has stood for a whole patience.

    Args:
        patience_s: longest time to wait.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._entries: deque[_Entry[Waiter]] = deque()
        self._stands_since: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def expect(self, patience_s: float) -> None:
        """Change the longest time to wait, for those that wait already too."""
        self._patience_s = patience_s

    def put(self, waiter: Waiter, now: float) -> None:
        """Add a waiter; times never go back."""
        if self._stands_since is None:
            self._stands_since = now
        self._entries.append(_Entry(now, waiter))

    def take(self, now: float) -> Waiter:
        """Remove the one that is served next; there is one."""
        late = now - self._entries[0].since > SHORT * self._patience_s
        entry = self._entries.pop() if late else self._entries.popleft()
        self._note_empty()
        return entry.waiter

    def give_up(self, now: float) -> list[Waiter]:
        """Remove those who have waited too long, the oldest first."""
        patience = self.patience_s(now)
        gone = []
        while self._entries and now - self._entries[0].since >= patience:
            gone.append(self._entries.popleft().waiter)
        self._note_empty()
        return gone

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that has left by itself, if it is still there."""
        self._entries = deque(entry for entry in self._entries if entry.waiter != waiter)
        self._note_empty()

    def patience_s(self, now: float) -> float:
        """How long anybody may wait at this time."""
        stands = self._stands_since is not None and now - self._stands_since > self._patience_s
        return SHORT * self._patience_s if stands else self._patience_s

    def next_s(self, now: float) -> float:
        """Seconds until somebody may have to be given up; somebody waits."""
        return max(0.0, self._entries[0].since + self.patience_s(now) - now)

    def _note_empty(self) -> None:
        if not self._entries:
            self._stands_since = None
