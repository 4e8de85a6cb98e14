"""Admission: a request is checked against the catalog once, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import MAX_K, MAX_TRAITS_K, FilterError, InvalidRequest, SearchRequest, shown
from silverray.shard.filter.compiler import CompiledFilter, compile_filter
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.vectors import REAL_KINDS, ZeroVectorError, to_unit_length
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

CACHED_FILTERS = 4_096


class Admission:
    """Checks requests, normalises their vectors and compiles their filters.

    Args:
        catalog: what the requests are about.
        valuer: the formulas that requests may choose; None is none.

    Attributes:
        valuer: the formulas.
    """

    def __init__(self, catalog: Catalog, valuer: Valuer | None = None) -> None:
        self.catalog = catalog
        self.valuer = valuer or Valuer(ValueSettings(), catalog.tasks, catalog.schema)
        self._payload = [name for name, field in catalog.schema.fields.items() if field.payload]

        @lru_cache(maxsize=CACHED_FILTERS)
        def compile_text(text: str | None) -> CompiledFilter:
            return compile_filter(text, catalog.schema, catalog.layout)

        self._compile = compile_text

    def admit(self, request: SearchRequest, where: str = "") -> SearchRequest:
        """Check a request.

        Args:
            request: as a client sent it.
            where: path of the request in messages, such as `queries[3]`.

        Returns:
            The request with its filter compiled, each payload field once and, for cosine, its vectors of length 1.
            `vectors` stays None where user features were given.

        Raises:
            InvalidRequest: a value is of the wrong shape or outside its range.
            FilterError: the filter is wrong.
        """
        prefix = f"{where}." if where else ""
        self.admit_sizes(request.k, request.n_probe, prefix, "k" if request.keys is None else "ids")
        if request.traits is not None:
            self._admit_traits(request.traits, request.k, prefix)
        if not 0 <= request.min_coverage <= 1:
            raise InvalidRequest(f"expected 0 to 1, got {request.min_coverage}", f"{prefix}min_coverage")
        # Once each: shards read every one that they are asked for, and a body has room for a million.
        fields = tuple(dict.fromkeys(request.fields))
        for name in fields:
            if name not in self._payload:
                known, place = ", ".join(self._payload) or "none", request.fields.index(name)
                raise InvalidRequest(f"no payload field {shown(name)}; there are: {known}", f"{prefix}fields[{place}]")
        if (request.vectors is None) == (request.user is None):
            raise InvalidRequest("give either query vectors or user features", where or None)
        vectors = None if request.vectors is None else self.admit_vectors(request.vectors, prefix)
        compiled = request.filter
        if not isinstance(compiled, CompiledFilter):
            compiled = self.admit_filter(compiled, prefix)
        context = self.valuer.admit(request, prefix)
        return replace(request, vectors=vectors, filter=compiled, fields=fields, context=context)

    def admit_sizes(self, k: int, n_probe: int | None, prefix: str = "", name: str = "k") -> None:
        """Check the number of items wanted, which messages call `name`, and of clusters to visit.

        Raises:
            InvalidRequest: a number is outside its range.
        """
        if not 1 <= k <= MAX_K:
            raise InvalidRequest(f"expected 1 to {MAX_K}, got {k}", f"{prefix}{name}")
        if self.catalog.set_wise and k > MAX_TRAITS_K:
            message = f"expected at most {MAX_TRAITS_K} items where a scorer judges lists as a whole, got {k}"
            raise InvalidRequest(message, f"{prefix}{name}")
        if n_probe is not None and not 1 <= n_probe < 2**63:
            raise InvalidRequest(f"expected 1 to 2^63 - 1, got {n_probe}", f"{prefix}n_probe")

    def _admit_traits(self, traits: Sequence[str], k: int, prefix: str) -> None:
        if k > MAX_TRAITS_K:
            raise InvalidRequest(f"expected at most {MAX_TRAITS_K} where traits are asked for, got {k}", f"{prefix}k")
        for place, name in enumerate(traits):
            if name not in self.catalog.schema.categories:
                known = ", ".join(self.catalog.schema.categories) or "none"
                raise InvalidRequest(f"no filterable category {name!r}; there are: {known}", f"{prefix}traits[{place}]")

    def admit_filter(self, text: str | None, prefix: str = "") -> CompiledFilter:
        """Compile a filter, or find it compiled.

        Raises:
            FilterError: the filter is wrong.
        """
        try:
            return self._compile(text)
        except FilterError as error:
            error.where = f"{prefix}filter"
            raise

    def admit_vectors(self, vectors: NDArray[np.float32], prefix: str = "") -> NDArray[np.float32]:
        """Check task vectors `[T, D]`, and scale them to length 1 for cosine.

        Raises:
            InvalidRequest: a wrong shape, NaN or infinity, or a vector of zeros with cosine.
        """
        tasks = len(self.catalog.tasks)
        name = f"{prefix}vector" if tasks == 1 else f"{prefix}vectors"
        if vectors.ndim != 2 or vectors.shape[0] != tasks:
            raise InvalidRequest(f"expected {tasks} task vector(s), got {list(vectors.shape)}", name)
        return self._checked(vectors, lambda row: name)

    def admit_queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Check queries `[B, T, D]`, or `[B, D]` of a catalog with one task, all at once; see `admit_vectors`.

        Raises:
            InvalidRequest: `where` names the first bad query.
        """
        tasks, dimension = len(self.catalog.tasks), self.catalog.dimension
        if queries.ndim != (2 if tasks == 1 else 3) or (tasks > 1 and queries.shape[1] != tasks):
            expected = f"[B, {dimension}]" if tasks == 1 else f"[B, {tasks}, {dimension}]"
            raise InvalidRequest(f"expected {expected}, got {list(queries.shape)}", "queries")
        rows = queries.reshape(-1, queries.shape[-1])
        name = "vector" if tasks == 1 else "vectors"
        return self._checked(rows, lambda row: f"queries[{row // tasks}].{name}").reshape(queries.shape)

    def _checked(self, vectors: NDArray[np.float32], name: Callable[[int], str]) -> NDArray[np.float32]:
        if vectors.dtype.kind not in REAL_KINDS:
            raise InvalidRequest(f"expected real numbers, got {vectors.dtype}", name(0))
        if vectors.shape[1] != self.catalog.dimension:
            raise InvalidRequest(f"expected {self.catalog.dimension} dimensions, got {vectors.shape[1]}", name(0))
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise InvalidRequest("holds NaN, infinity or a number beyond float32", name(row))
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.catalog.metric == "ip":
            return vectors
        try:
            return to_unit_length(vectors)
        except ZeroVectorError as error:
            raise InvalidRequest(str(error), name(error.row)) from None
