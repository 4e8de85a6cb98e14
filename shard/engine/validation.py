"""Query validation: a request is checked against the catalog once, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import MAX_FEATURES_K, FilterError, InvalidRequest, SearchRequest, shown
from silverray.shard.arguments import float32_array, is_whole
from silverray.shard.filter.cache import FilterCache
from silverray.shard.filter.compiler import CompiledFilter, compile_filter
from silverray.shard.query import Options, Query, UserQuery, plain_options
from silverray.shard.schema.vectors import faults, to_unit_length
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import FormulaInputs, Valuer


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
        options = plain_options(request, prefix)
        self._check_list(options["k"], f"{prefix}{'k' if request.keys is None else 'ids'}")
        if (request.vectors is None) == (request.user is None):
            raise InvalidRequest("give either query vectors or user features", where or None)
        options["fields"] = self._fields(request.fields, prefix)
        options["keys"] = None if request.keys is None else _keys(request.keys, prefix)
        vectors = None if request.vectors is None else self.check_vectors(request.vectors, prefix)
        options["filter"] = compiled or self.compile(request.filter, prefix)
        options["formula"] = FormulaInputs(request.variant, self.valuer.admit(request, prefix) or {})
        if vectors is None:
            return UserQuery(user=request.user or {}, **options)
        return Query(vectors=vectors, **options)

    def options(self, request: SearchRequest) -> Options:
        """What a request says beside its user and its vectors, checked, with its filter compiled.

        Raises:
            InvalidRequest: a value is outside its range.
            FilterError: the filter is wrong.
        """
        plain = plain_options(request)
        self._check_list(plain["k"], "k")
        return Options(filter=self.compile(request.filter), **plain)

    def _check_list(self, k: int, where: str) -> None:
        """Refuse lists that are too long for a scorer that judges them as a whole."""
        if self.catalog.set_wise and k > MAX_FEATURES_K:
            message = f"expected at most {MAX_FEATURES_K} items where a scorer judges lists as a whole, got {k}"
            raise InvalidRequest(message, where)

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
