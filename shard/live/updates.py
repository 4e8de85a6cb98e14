"""Updates: log entries become visible in a shard's answers, a few at a time and in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import reduce
from time import monotonic, perf_counter
from typing import NamedTuple

import numpy as np

from silverray.shard.api import ItemId
from silverray.shard.engine.engine import Engine
from silverray.shard.index.packing import count_slots
from silverray.shard.live.adapting import WriteAdapter
from silverray.shard.live.arrays import LiveArrays
from silverray.shard.live.changes import Changes, Keyed, key_of, merge, runs
from silverray.shard.live.checks import WriteError
from silverray.shard.live.compaction import Still, compact
from silverray.shard.live.outcome import Outcome
from silverray.shard.live.writes import Entry
from silverray.shard.schema.keys import partition_of
from silverray.shard.threads import single_worker

_logger = logging.getLogger(__name__)

SLICE = 128
"""Entries that are applied together: searches wait for so many, well below 2 ms."""
LEAST_FREE = 0.2
"""Arrays are made anew when a smaller part of the slots is free that new arrays would have free,"""
MOST_SLOTS = 1.4
"""or there are so many times as many slots as these would have,"""
MOST_STRAYS = 0.02
"""or a larger share of the items is not in its nearest cluster,"""
MOST_WRITTEN = 0.25
"""or of the payload's rows was written one by one, as Python's objects."""
FEW = 4_096
"""So many strays or written rows never matter: a small catalog would be made anew after every few bodies."""
RETRY_S = 60.0
"""Time from an attempt to make the arrays anew that failed to the next."""

Gate = Callable[[Callable[[], None]], None]
"""Calls a function while no search is going on, and returns when it is done."""


class UpdatesStatus(NamedTuple):
    """How a shard stands with its updates.

    Attributes:
        applied: number of the last log entry that answers include.
        items: how many it holds.
        slots: how many it has room for.
        strays: items that are not in their nearest cluster, which was full.
        written: rows of the payload that were written since the last compaction.
        compactions: how often the arrays were made anew.
        compaction_s: how long that took the last time; 0 if never.
        longest_edit_s: longest that searches were kept waiting for an edit.
        outcome: what writes did, since the shard was loaded.
        refusal: why a write was left out, the last time that one was; None if none was.
    """

    applied: int
    items: int
    slots: int
    strays: int
    written: int
    compactions: int
    compaction_s: float
    longest_edit_s: float
    outcome: Outcome
    refusal: str | None


class Updates:
    """Applies log entries to an engine that was loaded with slack.

    One thread of its own plans edits; the gate lets them in. Another makes the arrays anew when a bound is passed.

    Args:
        engine: to be written to by nobody else.
        gate: lets edits in between searches.

    Raises:
        ValueError: the engine was loaded without slack.
    """

    def __init__(self, engine: Engine, gate: Gate) -> None:
        if engine.slack is None:
            raise ValueError("slack: expected free slots for each item, got None; open the shard with slack")
        self._engine = engine
        self._slack = engine.slack
        self._held = frozenset(engine.partitions)
        catalog = engine.catalog
        self._adapter = WriteAdapter(catalog.schema, catalog.id_type, catalog.vector_space)
        self._gate = gate
        self._live = LiveArrays(engine.index, engine.catalog)
        self._writer = single_worker("updates")
        self._compactor = single_worker("compaction", background=True)
        self._compacting: Future[None] | None = None
        self._journal: deque[Keyed] | None = None
        self._unfinished: Callable[[], None] | None = None
        self._outcome, self._retry_at = Outcome(), 0.0
        self._refusal: tuple[ItemId, str] | None = None
        self._compactions, self._compaction_s, self._longest_edit_s = 0, 0.0, 0.0

    @property
    def applied(self) -> int:
        """Number of the last log entry that answers include."""
        return self._engine.applied

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply entries, and return when every search that begins later sees them.

        Args:
            entries: in the order of their numbers; those that were applied already change nothing.
        """
        fresh = [entry for entry in entries if entry.seq > self.applied]
        for start in range(0, len(fresh), SLICE):
            while not self._writer.submit(self._apply, fresh[start : start + SLICE]).result():
                # There was no room, and nothing of the slice was applied: it is given again to new arrays.
                self.compact().result()
            if monotonic() >= self._retry_at and self._passes_a_bound():
                self.compact()

    def compact(self) -> Future[None]:
        """Make the arrays anew in the background, unless that is going on; the future is done when they are in use."""
        if self._compacting is None or self._compacting.done():
            self._compacting = self._compactor.submit(self._compact)
        return self._compacting

    def status(self) -> UpdatesStatus:
        """How the shard stands; reading it disturbs nothing."""
        live = self._live
        return UpdatesStatus(
            applied=self.applied,
            items=live.lists.items,
            slots=len(live.lists),
            strays=len(live.slots.strays),
            written=live.payload.written,
            compactions=self._compactions,
            compaction_s=self._compaction_s,
            longest_edit_s=self._longest_edit_s,
            outcome=self._outcome,
            refusal=self._refusal and f"item {self._refusal[0]!r}: {self._refusal[1]}",
        )

    def close(self) -> None:
        """End the threads, when what they are doing is done."""
        self._compactor.shutdown()
        self._writer.shutdown()

    def _apply(self, entries: Sequence[Entry]) -> bool:
        """Apply a slice, if there is room for so many new items."""
        self._finish()
        if self._live.slots.free < SLICE:
            return False
        taken, refused = [], 0
        for key, write in self._mine(entries):
            try:
                taken.append((key, self._adapter.adapt(write)))
            except WriteError as error:
                self._note(write.id, error)
                refused += 1
        if (journal := self._journal) is not None:
            journal.extend(taken)  # first: what fails half-way must not be missing from new arrays
        self._outcome = self._outcome.plus(self._write(self._live, taken, self._let_in)).plus(Outcome(refused=refused))
        # Last: whoever sees the number may rely on the writes, and what failed before it is given again.
        self._engine.applied = entries[-1].seq
        return True

    def _let_in(self, edit: Callable[[], None]) -> None:
        """Make an edit while no search is going on. The books say that it was made; if it fails, it is still to be."""
        self._unfinished = edit
        self._gate(edit)
        self._unfinished = None

    def _finish(self) -> None:
        """Make the edit that failed, if one did: what it had written, it writes again."""
        if self._unfinished is not None:
            self._let_in(self._unfinished)

    def _mine(self, entries: Sequence[Entry]) -> Iterator[Keyed]:
        """Writes to items of this shard's partitions, by key."""
        keys = [key_of(entry.write.id) for entry in entries]
        homes = partition_of(np.array(keys, dtype=np.int64), self._engine.catalog.partitions).tolist()
        for key, home, entry in zip(keys, homes, entries, strict=True):
            if home in self._held:
                yield key, entry.write

    def _write(self, live: LiveArrays, writes: Iterable[Keyed], gate: Gate) -> Outcome:
        """Write to arrays, in the writes' order."""
        return reduce(Outcome.plus, (self._write_run(live, run, gate) for run in runs(writes)), Outcome())

    def _write_run(self, live: LiveArrays, run: Sequence[Keyed], gate: Gate) -> Outcome:
        """Write a run to arrays all at once; if that cannot be, one by one, and refuse those that cannot alone."""
        try:
            changes = Changes.of(merge(run), self._engine.catalog)
        except ValueError as error:
            if len(run) > 1:
                return reduce(Outcome.plus, (self._write_run(live, [one], gate) for one in run))
            self._note(run[0][1].id, error)
            return Outcome(refused=1)
        planned = live.plan(changes)
        for id_ in planned.collisions:
            self._note(id_, "its key is that of another item")

        def apply() -> None:
            began = perf_counter()
            live.apply(planned.edit)
            self._longest_edit_s = max(self._longest_edit_s, perf_counter() - began)

        gate(apply)
        return planned.outcome

    def _note(self, id_: ItemId, reason: object) -> None:
        """Keep why a write to an item is left out; logged unless it was so for the last one that was left out."""
        told, self._refusal = self._refusal, (id_, str(reason))
        if told is None or told[1] != str(reason):
            _logger.warning("writes are left out, the first to item %r: %s", id_, reason)

    def _passes_a_bound(self) -> bool:
        live = self._live
        items, slots = live.lists.items, len(live.lists)
        needed = count_slots(items, len(live.lists.centroids), self._slack)
        return (
            live.slots.free < LEAST_FREE * (needed - items)
            or slots > MOST_SLOTS * needed
            or len(live.slots.strays) > max(FEW, MOST_STRAYS * items)
            or live.payload.written > max(FEW, MOST_WRITTEN * items)
            or live.tags_scattered
        )

    def _compact(self) -> None:
        began, old = perf_counter(), self._live
        try:
            # The journal begins in the writer's thread, between two edits; all else goes on beside them.
            live = self._replay(self._anew(old, self._writer.submit(self._begin_journal).result()))
            while not self._writer.submit(self._install, live).result():
                live = self._replay(live)
        except Exception:
            self._retry_at = monotonic() + RETRY_S
            _logger.exception("the arrays could not be made anew; the old ones stay")
            raise
        finally:
            self._journal = None
        # The gate has let the new arrays in: no search reads the old ones any more.
        old.payload.let_go()
        self._compactions, self._compaction_s = self._compactions + 1, perf_counter() - began
        _logger.info("made %s slots anew for %s items in %.1f s", len(live.lists), live.lists.items, self._compaction_s)

    def _begin_journal(self) -> Still:
        self._finish()
        # One thread appends while another takes from the left, which a deque allows without a lock.
        self._journal = deque()
        return Still.of(self._live)

    def _anew(self, live: LiveArrays, still: Still) -> LiveArrays:
        return LiveArrays(compact(live, still, self._slack), self._engine.catalog)

    def _replay(self, live: LiveArrays) -> LiveArrays:
        """Apply most of the journal; returns the arrays that hold it, newer ones where there was too little room."""
        assert self._journal is not None
        while True:
            if live.slots.free < SLICE:
                live = self._anew(live, Still.of(live))
            if len(self._journal) <= SLICE:
                return live
            self._write_journal(live)

    def _write_journal(self, live: LiveArrays) -> None:
        """Write the oldest of the journal to arrays that are not searched yet."""
        assert self._journal is not None
        oldest = [self._journal.popleft() for _ in range(min(SLICE, len(self._journal)))]
        self._write(live, oldest, lambda write: write())

    def _install(self, live: LiveArrays) -> bool:
        """Search new arrays from now on, if all writes will be there at once."""
        assert self._journal is not None
        if len(self._journal) > SLICE:
            return False
        self._write_journal(live)
        self._gate(lambda: self._engine.install(live.index))
        # An edit that failed is in the journal, and so in these arrays: it needs no second try.
        self._live, self._journal, self._unfinished = live, None, None
        return True
