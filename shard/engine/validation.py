"""Query validation: a request is checked against the catalog once, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import (
    MAX_FEATURES_K,
    MAX_K,
    MAX_STRENGTH,
    FilterError,
    InvalidRequest,
    SearchRequest,
    shown,
)
from silverray.shard.arguments import check_word, float32_array, is_whole, whole_number
from silverray.shard.filter.cache import FilterCache
from silverray.shard.filter.compiler import CompiledFilter, compile_filter
from silverray.shard.query import Query, UserQuery
from silverray.shard.schema.vectors import faults, to_unit_length
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Asked, Valuer


class Validator:
    """Turns requests into queries: checks them, normalises their vectors and compiles their filters.

    Args:
        catalog: what the requests are about.
        valuer: the formulas that requests may choose; None is none.

    Attributes:
        valuer: the formulas.
        filters: compiles filters and keeps them.
    """

    def __init__(self, catalog: Catalog, valuer: Valuer | None = None) -> None:
        self.catalog = catalog
        self.valuer = valuer or Valuer(ValueSettings(), catalog.tasks, catalog.schema)
        self._payload = [name for name, field in catalog.schema.fields.items() if field.payload]

        self.filters = FilterCache(
            lambda text, deadline: compile_filter(text, catalog.schema, catalog.layout, deadline)
        )

    def validate(
        self, request: SearchRequest, where: str = "", compiled: CompiledFilter | None = None
    ) -> Query | UserQuery:
        """Check a request.

        Args:
            request: as a client sent it.
            where: path of the request in messages, such as `queries[3]`.
            compiled: its filter, where that has been compiled already.

        Returns:
            The query, with each payload field once and, for cosine, vectors of length 1.

        Raises:
            InvalidRequest: a value is of the wrong shape or outside its range.
            FilterError: the filter is wrong.
        """
        prefix = f"{where}." if where else ""
        k, n_probe = self.check_sizes(request.k, request.n_probe, prefix, "k" if request.keys is None else "ids")
        check_ways(request.mode, request.refine, prefix)
        _check_limits(request, prefix)
        if (request.vectors is None) == (request.user is None):
            raise InvalidRequest("give either query vectors or user features", where or None)
        options: dict[str, Any] = {
            "k": k,
            "n_probe": n_probe,
            "mode": request.mode,
            "refine_all": request.refine == "all",
            "fields": self._fields(request.fields, prefix),
            "keys": None if request.keys is None else _keys(request.keys, prefix),
            "timeout_s": request.timeout_s,
            "min_coverage": request.min_coverage,
            "min_seq": request.min_seq,
            "explain": request.explain,
            "diversify": check_diversify(request, prefix),
        }
        vectors = None if request.vectors is None else self.check_vectors(request.vectors, prefix)
        options["filter"] = compiled or self.compile(request.filter, prefix)
        options["formula"] = Asked(request.variant, self.valuer.admit(request, prefix) or {})
        if vectors is None:
            return UserQuery(user=request.user or {}, **options)
        return Query(vectors=vectors, **options)

    def check_sizes(self, k: int, n_probe: int | None, prefix: str = "", name: str = "k") -> tuple[int, int | None]:
        """Check the number of items wanted, which messages call `name`, and of clusters to visit; returns both.

        Raises:
            InvalidRequest: one is no whole number, or outside its range.
        """
        k = whole_number(k, f"1 to {MAX_K}", 1, MAX_K, f"{prefix}{name}")
        if self.catalog.set_wise and k > MAX_FEATURES_K:
            message = f"expected at most {MAX_FEATURES_K} items where a scorer judges lists as a whole, got {k}"
            raise InvalidRequest(message, f"{prefix}{name}")
        if n_probe is not None:
            n_probe = whole_number(n_probe, "1 to 2^63 - 1", 1, 2**63 - 1, f"{prefix}n_probe")
        return k, n_probe

    def compile(self, text: str | None, prefix: str = "") -> CompiledFilter:
        """Compile a filter, or find it compiled.

        Raises:
            InvalidRequest: it is no text.
            FilterError: the filter is wrong.
        """
        if not (text is None or isinstance(text, str)):
            raise InvalidRequest(f"expected a text or None, got {shown(text)}", f"{prefix}filter")
        try:
            return self.filters.compile(text)
        except FilterError as error:
            error.where = f"{prefix}filter"
            raise

    def check_vectors(self, vectors: Any, prefix: str = "") -> NDArray[np.float32]:
        """Check task vectors `[T, D]`, and scale them to length 1 for cosine.

        Raises:
            InvalidRequest: no numbers, a wrong shape, a number that is not finite in float32, a vector of zeros with
                cosine, or one that is longer than `MAX_LENGTH` with inner products.
        """
        tasks = len(self.catalog.tasks)
        name = f"{prefix}vector" if tasks == 1 else f"{prefix}vectors"
        vectors = float32_array(vectors, name)
        if vectors.ndim != 2 or vectors.shape[0] != tasks:
            raise InvalidRequest(f"expected {tasks} task vector(s), got {list(vectors.shape)}", name)
        return self._comparable(vectors, lambda row: name)

    def check_queries(self, queries: Any) -> NDArray[np.float32]:
        """Check queries `[B, T, D]`, or `[B, D]` of a catalog with one task, all at once; see `check_vectors`.

        Returns:
            `[B, T, D]`.

        Raises:
            InvalidRequest: `where` names the first bad query.
        """
        tasks, dimension = len(self.catalog.tasks), self.catalog.dimension
        queries = float32_array(queries, "queries")
        if queries.ndim != (2 if tasks == 1 else 3) or (tasks > 1 and queries.shape[1] != tasks):
            expected = f"[B, {dimension}]" if tasks == 1 else f"[B, {tasks}, {dimension}]"
            raise InvalidRequest(f"expected {expected}, got {list(queries.shape)}", "queries")
        rows = queries.reshape(len(queries) * tasks, queries.shape[-1])
        name = "vector" if tasks == 1 else "vectors"
        checked = self._comparable(rows, lambda row: f"queries[{row // tasks}].{name}")
        return checked.reshape(len(queries), tasks, dimension)

    def _comparable(self, vectors: NDArray[np.float32], name: Callable[[int], str]) -> NDArray[np.float32]:
        if vectors.shape[1] != self.catalog.dimension:
            raise InvalidRequest(f"expected {self.catalog.dimension} dimensions, got {vectors.shape[1]}", name(0))
        for row, fault in faults(vectors, self.catalog.metric).items():
            raise InvalidRequest(fault, name(row))
        return np.ascontiguousarray(vectors) if self.catalog.metric == "ip" else to_unit_length(vectors)

    def _fields(self, names: Sequence[str], prefix: str) -> tuple[str, ...]:
        """Names of payload fields, once each: shards read every one that they are asked for."""
        if not isinstance(names, list | tuple):
            raise InvalidRequest(f"expected a list of names, got {shown(names)}", f"{prefix}fields")
        fields = tuple(dict.fromkeys(names))  # a body has room for a million
        for name in fields:
            if name not in self._payload:
                known, place = ", ".join(self._payload) or "none", names.index(name)
                raise InvalidRequest(f"no payload field {shown(name)}; there are: {known}", f"{prefix}fields[{place}]")
        return fields


def check_ways(mode: str, refine: str | None, prefix: str = "") -> None:
    """Check the words by which a request says how it is searched.

    Raises:
        InvalidRequest: there is no such word.
    """
    check_word(mode, ("exact", "bloom"), f"{prefix}mode")
    check_word(refine, (None, "all"), f"{prefix}refine")


def _check_limits(request: SearchRequest, prefix: str) -> None:
    """Check what a request says of time, of the log and of missing shards."""
    if not (request.timeout_s is None or isinstance(request.timeout_s, int | float)):
        raise InvalidRequest(f"expected seconds, got {shown(request.timeout_s)}", f"{prefix}timeout_s")
    if not is_whole(request.min_seq):
        raise InvalidRequest(f"expected a whole number, got {shown(request.min_seq)}", f"{prefix}min_seq")
    if not isinstance(request.min_coverage, int | float) or not 0 <= request.min_coverage <= 1:
        raise InvalidRequest(f"expected 0 to 1, got {shown(request.min_coverage)}", f"{prefix}min_coverage")


def check_diversify(request: SearchRequest, prefix: str = "") -> float | None:
    """How strongly a list is diversified; None where it is not: a strength of 0 changes nothing.

    Raises:
        InvalidRequest: the strength or k is outside its range.
    """
    if request.diversify is None:
        return None
    if not 0 <= request.diversify <= MAX_STRENGTH:
        raise InvalidRequest(f"expected 0 to {MAX_STRENGTH:g}, got {request.diversify}", f"{prefix}diversify.strength")
    if request.k > MAX_FEATURES_K:
        raise InvalidRequest(f"expected at most {MAX_FEATURES_K} with diversify, got {request.k}", f"{prefix}k")
    return request.diversify or None


def _keys(keys: Any, prefix: str) -> NDArray[np.int64]:
    """The keys of items to rank.

    Raises:
        InvalidRequest: they are no list of whole numbers.
    """
    if isinstance(keys, list | tuple) and all(map(is_whole, keys)):
        keys = np.array(keys, dtype=np.int64)
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise InvalidRequest(f"expected [n] int64, got {shown(keys)}", f"{prefix}keys")
    return keys.astype(np.int64, copy=False)
