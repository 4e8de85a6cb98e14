"""Embedded search: a snapshot in this process, for notebooks, tests and batch jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, NamedTuple, Never, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from silverray.shard.api import InvalidRequest, Mode, SearchRequest, shown
from silverray.shard.engine.engine import Engine, require_engine
from silverray.shard.engine.rerank import WINDOW
from silverray.shard.engine.validation import Validator
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.limits import at_least
from silverray.shard.query import QueryBatch, different
from silverray.shard.result_batch import ResultBatch
from silverray.shard.value.settings import ValueSettings

BATCH = 512
"""Queries that are searched together."""


class BatchResult(NamedTuple):
    """The best items of each query.

    Attributes:
        ids: `[B, k]` int64 (-1 beyond the count) or object (None beyond the count), best first.
        scores: `[B, k]` float32; -inf beyond the count.
        counts: `[B]` int64 items found; places beyond `counts[b]` hold no item.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]


class LocalSearcher:
    """A snapshot, or some of its partitions, searched synchronously.

    Args:
        engine: what answers; `open` makes one.

    Attributes:
        catalog: the snapshot without its items.
    """

    def __init__(self, engine: Engine) -> None:
        require_engine(engine, type(self).__name__)
        self.engine = engine
        self.catalog = engine.catalog
        self._validator = Validator(engine.catalog)

    def __reduce__(self) -> Never:
        raise TypeError("a searcher cannot be pickled or copied: open the snapshot in the process that searches it")

    @classmethod
    def open(
        cls,
        path: str | Path,
        partitions: Sequence[int] | None = None,
        device: str = "auto",
        threads: int | None = None,
        value: ValueSettings = ValueSettings(),  # noqa: B008 (immutable)
        window: int = WINDOW,
    ) -> Self:
        """Load a snapshot.

        Args:
            path: the snapshot's directory.
            partitions: which ones; None is all.
            device: a torch device, or "auto" for CUDA where there is one.
            threads: of the whole process for computing; None leaves them.
            value: the formulas that value what is found; its default is the one that counts.
            window: items of a list that a scorer of whole lists judges together.

        Returns:
            The searcher, ready to answer: its kernels are compiled.

        Raises:
            ValueError: an argument is none of what is expected.
            SnapshotError: a file is missing or altered, or the device does not search so many dimensions; the message
                names the file or the snapshot.
            ShardTooLarge: the partitions do not fit into memory.
            FormulaError: a formula is wrong.
        """
        return cls(Engine.open(path, partitions, device=device, threads=threads, value=value, window=window))

    def search_batch(
        self,
        vectors: ArrayLike,
        filters: str | Sequence[str | None] | None = None,
        k: int = 10,
        n_probe: int | None = None,
        mode: Mode = "exact",
        refine: Literal["all"] | None = None,
        min_score: float | None = None,
    ) -> BatchResult:
        """Search many queries.

        Args:
            vectors: `[B, D]` numbers, one query a row; `[B, T, D]` where the model has several tasks. An array, a
                tensor, a data frame or lists; they are rounded to float32.
            filters: one filter for all queries, or one (or None) for each.
            k: number of items wanted, 1 to 10,000; to 1,000 where a scorer judges lists as a whole.
            n_probe: clusters to scan; None lets the planner choose.
            mode: "exact", or "bloom" to leave positive hashed terms unverified.
            refine: "all" gives every scanned candidate its exact score.
            min_score: items with a lower score are left out; None keeps all.

        Returns:
            The items of each query by (score desc, key asc); scores are those of the default formula where there is
            one.

        Raises:
            InvalidRequest: a value is of the wrong shape or outside its range.
            FilterError: a filter is wrong; `where` names the query.
        """
        asked = SearchRequest(k=k, n_probe=n_probe, mode=mode, refine=refine, min_score=min_score)
        options, queries = self._validator.options(asked), self._validator.check_queries(vectors)
        compiled, filter_of = self._compiled(filters, len(queries))
        strings = self.catalog.id_type == "string"
        ids = np.full((len(queries), options.k), None if strings else -1, dtype=object if strings else np.int64)
        scores = np.full((len(queries), options.k), -np.inf, dtype=np.float32)
        result = BatchResult(ids, scores, np.zeros(len(queries), dtype=np.int64))
        for start in range(0, len(queries), BATCH):
            part = slice(start, start + BATCH)
            batch = QueryBatch.alike(queries[part], compiled, filter_of[part], options)
            rows = BatchResult(result.ids[part], result.scores[part], result.counts[part])
            _fill(rows, self.engine.answer(batch), options.min_score)
        return result

    def _compiled(
        self, filters: str | Sequence[str | None] | None, count: int
    ) -> tuple[tuple[CompiledFilter, ...], NDArray[np.int64]]:
        """The different filters, and which of them each query has."""
        compile_filter = self._validator.compile
        if filters is None or isinstance(filters, str):
            return (compile_filter(filters, "queries[0]."),), np.zeros(count, dtype=np.int64)
        if not isinstance(filters, Iterable) or isinstance(filters, bytes | Mapping | Set):
            raise InvalidRequest(f"expected a text, None or one for each query, got {shown(filters)}", "filters")
        filters = list(filters)
        if len(filters) != count:
            raise ValueError(f"filters: expected one for each of {count} queries, got {len(filters)}")
        compiled = [compile_filter(text, f"queries[{place}].") for place, text in enumerate(filters)]
        return different(compiled)


def _fill(result: BatchResult, found: ResultBatch, min_score: float | None) -> None:
    """Write lists, as far as they have the least score, into the rows of a result."""
    counts, ids, scores = np.diff(found.offsets), found.keys if found.ids is None else found.ids, found.scores
    if min_score is not None:
        kept = at_least(scores, min_score)
        counts = np.bincount(np.repeat(np.arange(len(found)), counts)[kept], minlength=len(found))
        ids, scores = ids[kept], scores[kept]
    result.counts[:] = counts
    there = np.arange(result.ids.shape[1]) < counts[:, None]
    result.ids[there] = ids
    result.scores[there] = scores
