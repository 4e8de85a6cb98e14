"""Queries: requests that have been checked, and batches of them in columns.

A request becomes a `Query` when it is checked (`shard/engine/validation.py`). One with user features is a `UserQuery`
until the encoder gives it vectors; only a query with vectors can enter a batch.

Letters: B queries, T tasks, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import (
    MAX_FEATURES_K,
    MAX_K,
    MAX_STRENGTH,
    InvalidRequest,
    Mode,
    SearchRequest,
    shown,
)
from silverray.shard.arguments import check_word, is_whole, whole_number
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.compiler import Plan as FilterPlan
from silverray.shard.index.ladder import step_of
from silverray.shard.schema.keys import partition_of
from silverray.shard.value.valuer import FormulaInputs

_NO_INPUTS = FormulaInputs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a valid request says beside its user.

    Attributes:
        filter: compiled.
        k: number of items wanted.
        keys: `[k]` int64 keys of items to rank, those that there are not left out; None searches.
        fields: names of payload fields to return, each once.
        mode: "exact", or "bloom" to leave positive hashed terms unverified.
        n_probe: clusters to scan; None lets the planner decide.
        refine_all: whether every scanned candidate gets its exact score.
        timeout_s: time left for it when it is handed over; None waits for ever.
        min_coverage: least fraction of the items that must have been searched.
        min_seq: least log sequence number that the answer must include.
        explain: whether the answer says how it was found.
        formula: what its formula reads.
        quotas: for each task how many of the items that it predicts best are wanted beside the k; empty for none.
        diversify: strength of diversification; None leaves the list by score.
        min_score: least score of an item, see `limited`; None is none.
        features: categories whose codes are wanted with the features of candidates, for whoever re-ranks or
            diversifies the list; None wants no features.
    """

    filter: CompiledFilter
    k: int
    keys: NDArray[np.int64] | None = None
    fields: tuple[str, ...] = ()
    mode: Mode = "exact"
    n_probe: int | None = None
    refine_all: bool = False
    timeout_s: float | None = None
    min_coverage: float = 0.0
    min_seq: int = 0
    explain: bool = False
    formula: FormulaInputs = _NO_INPUTS
    quotas: tuple[int, ...] = ()
    diversify: float | None = None
    min_score: float | None = None
    features: tuple[str, ...] | None = None


def plain_options(request: SearchRequest, prefix: str = "") -> dict[str, Any]:
    """Those options of a request that any catalog takes, checked, by the names of `Options`.

    Args:
        request: as a client made it.
        prefix: of paths in messages, such as `queries[3].`.

    Raises:
        InvalidRequest: a value is of the wrong type or outside its range.
    """
    k = whole_number(request.k, f"1 to {MAX_K}", 1, MAX_K, f"{prefix}{'k' if request.keys is None else 'ids'}")
    n_probe = request.n_probe
    if n_probe is not None:
        n_probe = whole_number(n_probe, "1 to 2^63 - 1", 1, 2**63 - 1, f"{prefix}n_probe")
    check_word(request.mode, ("exact", "bloom"), f"{prefix}mode")
    check_word(request.refine, (None, "all"), f"{prefix}refine")
    if not (request.timeout_s is None or isinstance(request.timeout_s, int | float)):
        raise InvalidRequest(f"expected seconds, got {shown(request.timeout_s)}", f"{prefix}timeout_s")
    if not is_whole(request.min_seq):
        raise InvalidRequest(f"expected a whole number, got {shown(request.min_seq)}", f"{prefix}min_seq")
    if not isinstance(request.min_coverage, int | float) or not 0 <= request.min_coverage <= 1:
        raise InvalidRequest(f"expected 0 to 1, got {shown(request.min_coverage)}", f"{prefix}min_coverage")
    return {
        "k": k,
        "n_probe": n_probe,
        "mode": request.mode,
        "refine_all": request.refine == "all",
        "timeout_s": request.timeout_s,
        "min_coverage": request.min_coverage,
        "min_seq": request.min_seq,
        "explain": request.explain,
        "min_score": _least_score(request.min_score, f"{prefix}min_score"),
        "diversify": _strength(request, prefix),
    }


def _least_score(given: object, where: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool):
        with suppress(OverflowError):
            if math.isfinite(given):
                return float(given)
    raise InvalidRequest(f"expected a finite number or None, got {shown(given)}", where)


def _strength(request: SearchRequest, prefix: str) -> float | None:
    """How strongly a list is diversified; None where it is not: a strength of 0 changes nothing."""
    if request.diversify is None:
        return None
    if not 0 <= request.diversify <= MAX_STRENGTH:
        raise InvalidRequest(f"expected 0 to {MAX_STRENGTH:g}, got {request.diversify}", f"{prefix}diversify.strength")
    if request.k > MAX_FEATURES_K:
        raise InvalidRequest(f"expected at most {MAX_FEATURES_K} with diversify, got {request.k}", f"{prefix}k")
    return request.diversify or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Options):
    """A valid request with vectors.

    Attributes:
        vectors: `[T, D]` float32, finite, and of length 1 for cosine.
    """

    vectors: NDArray[np.float32]

    @property
    def plan(self) -> FilterPlan:
        """The plan of its filter in its mode."""
        return self.filter.plan(self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserQuery(Options):
    """A valid request that has no vectors yet.

    Attributes:
        user: features that the encoder turns into vectors.
    """

    user: Mapping[str, Any]

    def encoded(self, vectors: NDArray[np.float32]) -> Query:
        """The query with its vectors."""
        return Query(vectors=vectors, **{name: getattr(self, name) for name in _OPTIONS})


_OPTIONS = tuple(field.name for field in fields(Options))


AnyQuery = TypeVar("AnyQuery", bound=Options)


def different(filters: Sequence[CompiledFilter]) -> tuple[tuple[CompiledFilter, ...], NDArray[np.int64]]:
    """The different objects among filters, and which of them each is, `[B]` int64."""
    objects = {id(one): one for one in filters}
    places = {name: place for place, name in enumerate(objects)}
    return tuple(objects.values()), np.array([places[id(one)] for one in filters], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class QueryBatch:
    """B queries in columns, as they travel from a router to its shards; each column is named as in `Options`.

    A list of queries is a list of small objects, and pickling each costs as much as answering it. In a column, what
    several queries share travels once.

    Attributes:
        vectors: `[B, T, D]` float32.
        filters: the different filters.
        filter_of: `[B]` int64, the filter of each query.
    """

    vectors: NDArray[np.float32]
    filters: tuple[CompiledFilter, ...]
    filter_of: NDArray[np.int64]
    k: tuple[int, ...]
    keys: tuple[NDArray[np.int64] | None, ...]
    fields: tuple[tuple[str, ...], ...]
    mode: tuple[Mode, ...]
    n_probe: tuple[int | None, ...]
    refine_all: tuple[bool, ...]
    timeout_s: tuple[float | None, ...]
    min_coverage: tuple[float, ...]
    min_seq: tuple[int, ...]
    explain: tuple[bool, ...]
    formula: tuple[FormulaInputs, ...]
    quotas: tuple[tuple[int, ...], ...]
    features: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def of(cls, queries: Sequence[Query]) -> Self:
        """Put queries into columns; there is at least one, and all have vectors of one shape."""
        return cls(
            np.array([query.vectors for query in queries], dtype=np.float32),
            *different([query.filter for query in queries]),
            *zip(*map(_columns, queries), strict=True),
        )

    @classmethod
    def alike(
        cls,
        vectors: NDArray[np.float32],
        filters: Sequence[CompiledFilter],
        filter_of: NDArray[np.int64],
        options: Options,
    ) -> Self:
        """Queries that differ in their vectors and filters only."""
        count = len(vectors)
        return cls(vectors, tuple(filters), filter_of, *((value,) * count for value in _columns(options)))

    def __len__(self) -> int:
        return len(self.k)

    def __iter__(self) -> Iterator[Query]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Query:
        """One of the queries; its vectors are a view of the batch's."""
        return Query(
            vectors=self.vectors[place],
            filter=self.filters[self.filter_of[place]],
            **{name: getattr(self, name)[place] for name in _COLUMNS},
        )

    def take(self, places: Sequence[int]) -> Self:
        """The queries at some places, in that order."""
        index = np.array(places, dtype=np.intp)
        columns = {name: tuple([column[place] for place in places]) for name, column in self._columns()}
        return replace(self, vectors=self.vectors[index], filter_of=self.filter_of[index], **columns)

    def plans(self) -> list[FilterPlan]:
        """The plan of each query's filter in its mode."""
        return [self.filters[place].plan(mode) for place, mode in zip(self.filter_of.tolist(), self.mode, strict=True)]

    def steps(self) -> list[int]:
        """The step of each query's k."""
        return list(map(step_of, self.k))

    def within(self, timeouts_s: Sequence[float]) -> Self:
        """The same queries with so much time left."""
        return replace(self, timeout_s=tuple(timeouts_s))

    def held_by(self, holds: NDArray[np.bool_]) -> Self:
        """The same queries, to rank only the items of the partitions for which `holds` is true."""
        if all(keys is None for keys in self.keys):
            return self
        kept = (keys if keys is None else keys[holds[partition_of(keys, len(holds))]] for keys in self.keys)
        return replace(self, keys=tuple(kept))

    def _columns(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [(name, getattr(self, name)) for name in _COLUMNS]


_COLUMNS = tuple(field.name for field in fields(QueryBatch))[3:]
_columns = attrgetter(*_COLUMNS)
