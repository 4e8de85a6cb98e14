"""Contenders over one data set: tuned to equal recall, then timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

from silverray.benchmarks.common.contenders import Ask, Contender, Floats, Silverray, SilverrayModel, use_threads
from silverray.benchmarks.common.datasets import DataSet
from silverray.benchmarks.common.measure import Timing, interleave, ratio
from silverray.benchmarks.common.peers import Progress, open_peers
from silverray.benchmarks.common.truth import Truth, brute_force, recall
from silverray.benchmarks.scan.tuning import Tuned, smallest_setting

TARGET = 0.95
"""Of the figures to reach, "at equal recall": where list and graph indexes are usually compared."""
SELECTIVE_TARGET = 0.99
"""Where all that passes is scored exactly, more is to be had: the figure to reach at 1 % and below."""
SELECTIVE = 0.01
"""From this share down an inverted index is asked at a fixed part of its lists: it may never reach a target."""
FIXED_PART = 16
"""128 of 2,048 lists, as in the figures to reach."""
REFERENCE = "faiss IVF-Flat"
ALONE = 64
"""Queries asked one at a time in a round: a round then takes some milliseconds, far beyond the clock's steps."""
CURVE_END = 0.99
"""Recall at which a curve ends: beyond, times grow fast, and what is gained hangs on a few queries."""


class Cell(NamedTuple):
    """One group of rows: how many items are wanted, how many queries are asked at a time, and of what."""

    k: int
    batch: int
    share: float
    threads: int


class Entry(NamedTuple):
    """A row before it is timed."""

    contender: Contender
    ask: Ask
    recall: float
    note: str = ""

    @property
    def label(self) -> str:
        """Its name and setting, unique within a group."""
        return f"{self.contender.name}, {self.setting}"

    @property
    def setting(self) -> str:
        """The setting as shown."""
        text = "planned" if self.ask.setting is None else f"{self.contender.knob} {self.ask.setting}"
        return text + self.note


class Arena:
    """Contenders over one data set, with what is true of it.

    Args:
        data: the data set.
        peers: names of the peers.
        rounds: how often each row is timed.
        progress: told of index builds.
    """

    def __init__(self, data: DataSet, peers: Collection[str], rounds: int, progress: Progress) -> None:
        self.data = data
        self.rounds = rounds
        silverray = Silverray(data)
        self.lists = silverray.searcher.engine.model.lists
        self.own: Sequence[Contender] = (silverray, SilverrayModel(silverray))
        self.peers = open_peers(peers, data, progress)
        self.truth = cache(self._truth)
        self.entries = cache(self._entries)

    def _truth(self, share: float) -> Truth:
        use_threads(2)
        return brute_force(self.data.vectors, self.data.queries, 100, self.data.passing(share))

    def recall(self, contender: Contender, ask: Ask) -> float:
        """Recall over all queries, asked in one batch."""
        found = contender.search(self.data.queries, ask)
        truth, passing = self.truth(ask.share).top(ask.k), self.data.passing(ask.share)
        return recall(self.data.vectors, self.data.queries, found, truth, passing)

    def _tune(self, contender: Contender, k: int, share: float, target: float) -> Tuned:
        least = 1 if contender.knob == "n_probe" else k
        return smallest_setting(lambda n: self.recall(contender, Ask(k, n, share)), target, least, contender.most)

    def _entries(self, k: int, share: float) -> list[Entry]:
        """The rows of a group: equal recall, and what no setting describes."""
        target = SELECTIVE_TARGET if share <= SELECTIVE else TARGET
        searcher, model = self.own
        found = [self._tuned(searcher, k, share, target)]
        found.append(found[0]._replace(contender=model))
        planned = Ask(k, None, share)
        found.append(Entry(searcher, planned, self.recall(searcher, planned)))
        for peer in self.peers:
            if peer.knob == "n_probe" and share <= SELECTIVE:
                fixed = Ask(k, peer.most // FIXED_PART, share)
                found.append(Entry(peer, fixed, self.recall(peer, fixed)))
            if share == 1 or (peer.filters and (share > SELECTIVE or peer.name == REFERENCE)):
                found.append(self._tuned(peer, k, share, target))
        return found

    def _tuned(self, contender: Contender, k: int, share: float, target: float) -> Entry:
        tuned = self._tune(contender, k, share, target)
        note = "" if tuned.reached else f" (below {target})"
        return Entry(contender, Ask(k, tuned.setting, share), tuned.recall, note)

    def measure(self, cell: Cell) -> list[dict[str, Any]]:
        """Time the rows of a group, interleaved."""
        queries = self.data.queries[:ALONE] if cell.batch == 1 else self.data.queries
        entries = {entry.label: entry for entry in self.entries(cell.k, cell.share)}
        timings = interleave(
            {
                label: _asking(entry.contender, queries, entry.ask._replace(threads=cell.threads), cell.batch)
                for label, entry in entries.items()
            },
            rounds=self.rounds,
            warmup=1,
        )
        # The first of a name: at a fixed setting where there is one, else at equal recall.
        reference = next((timings[label] for label in timings if label.startswith(f"{REFERENCE},")), None)
        return [_row(cell, entry, timings[label], reference, len(queries)) for label, entry in entries.items()]

    def curve(self, contender: Contender, k: int) -> list[tuple[float, float]]:
        """Points (recall, queries per second), the settings doubling up to `CURVE_END`; unfiltered batches of 64."""
        setting, count = 1 if contender.knob == "n_probe" else k, len(self.data.queries)
        points: list[tuple[float, float]] = []
        while setting <= contender.most and (not points or points[-1][0] < CURVE_END):
            ask = Ask(k, setting)
            timing = interleave({"": _asking(contender, self.data.queries, ask, 64)}, rounds=3)[""]
            points.append((self.recall(contender, ask), count / timing.p50_s))
            setting *= 2
        return points


def _asking(contender: Contender, queries: Floats, ask: Ask, batch: int) -> Callable[[], None]:
    def call() -> None:
        for start in range(0, len(queries), batch):
            contender.search(queries[start : start + batch], ask)

    return call


def _row(cell: Cell, entry: Entry, timing: Timing, reference: Timing | None, count: int) -> dict[str, Any]:
    return {
        **cell._asdict(),
        "contender": entry.contender.name,
        "setting": entry.setting,
        "recall": entry.recall,
        **timing.rates(count),
        "ratio": None if reference is None else ratio(reference, timing),
    }
