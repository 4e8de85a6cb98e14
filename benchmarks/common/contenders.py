"""What a search is asked of in `silverray bench scan`: one face for Silverray and its peers, and Silverray's own.

Letters: N items, B queries, D dimensions.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from silverray.benchmarks.common.datasets import FILTERS, DataSet
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.local import BATCH, LocalSearcher

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Ask(NamedTuple):
    """How to search.

    Attributes:
        k: number of items wanted.
        setting: n_probe or ef; None is the contender's own choice.
        share: of the items that may be found, a key of `FILTERS`.
        threads: to use.
    """

    k: int
    setting: int | None
    share: float = 1.0
    threads: int = 2


class Contender(Protocol):
    """An index over a data set."""

    @property
    def name(self) -> str:
        """As shown."""

    @property
    def knob(self) -> str:
        """What its setting is called."""

    @property
    def filters(self) -> bool:
        """Whether it can be asked for less than everything."""

    @property
    def most(self) -> int:
        """The largest setting worth trying."""

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """Find items: `[B, k]` row numbers for `[B, D]` queries; -1 where there are no more."""


class Silverray:
    """The embedded searcher, as a user calls it."""

    name: ClassVar = "silverray"
    knob: ClassVar = "n_probe"
    filters: ClassVar = True

    def __init__(self, data: DataSet) -> None:
        self.searcher = LocalSearcher.open(data.snapshot)
        self.most = data.clusters

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        use_threads(ask.threads)
        found = self.searcher.search_batch(queries, FILTERS[ask.share], k=ask.k, n_probe=ask.setting)
        ids: Ints = found.ids
        return ids


class SilverrayModel:
    """The model alone, its programs prepared: what remains when the searcher's Python is taken away."""

    name: ClassVar = "silverray, model only"
    knob: ClassVar = "n_probe"
    filters: ClassVar = True

    def __init__(self, silverray: Silverray) -> None:
        catalog = silverray.searcher.catalog
        self.model = silverray.searcher.engine.model.retrieval
        self.most = silverray.most
        self._plans = {share: compile_filter(text, catalog.schema, catalog.layout) for share, text in FILTERS.items()}

    @torch.inference_mode()
    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        use_threads(ask.threads)
        plan = self._plans[ask.share].exact
        program, filters = torch.from_numpy(plan.program)[None], torch.zeros(len(queries), dtype=torch.int64)
        wanted = torch.full_like(filters, ask.k)
        parts = []
        for start in range(0, len(queries), BATCH):
            some = slice(start, start + BATCH)
            block = torch.from_numpy(queries[some])
            found = self.model(block, program, filters[some], wanted[some], ask.k, ask.setting)
            parts.append(found.slots)
        slots = torch.cat(parts)
        keys: Ints = torch.where(slots >= 0, self.model.lists.keys[slots.clamp(min=0)], -1).numpy()
        return keys


def use_threads(threads: int) -> None:
    """Let torch and Numba use so many threads."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
