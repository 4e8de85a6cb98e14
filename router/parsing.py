"""Decoded bodies to search requests, with errors that name the place."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from silverray.router.bodies import BatchBody, QueryBody, SearchBody
from silverray.router.settings import RouterSettings
from silverray.shard.api import InvalidRequest, SearchRequest

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SearchCall:
    """What a body asks for.

    Attributes:
        requests: its queries; their time-outs count from when the body was received.
        wheres: the path of each query in the body.
        alone: whether the body was one query, not a list of them.
        columns: whether columnar results are wanted.
    """

    requests: list[SearchRequest]
    wheres: list[str]
    alone: bool
    columns: bool


def parse_search(document: object, dimension: int, settings: RouterSettings) -> SearchCall:
    """Check the body of a search and turn it into requests.

    Args:
        document: the decoded body.
        dimension: of the catalog's vectors; cuts a bin of several.
        settings: defaults and limits.

    Raises:
        InvalidRequest: the body is wrong; `where` is the path of the first thing that is.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(f"expected an object, got {type(document).__name__}")
    if "queries" not in document:
        body = validate_body(SearchBody, document)
        return SearchCall([_request(body, "", dimension, settings)], [""], True, body.columns)
    queries = document["queries"]
    if isinstance(queries, list):
        if len(queries) > settings.max_queries:
            raise InvalidRequest(f"expected at most {settings.max_queries}, got {len(queries)}", "queries")
        for i, query in enumerate(queries):
            _refuse_unknown(QueryBody, query, f"queries[{i}]")
    batch = validate_body(BatchBody, document)
    wheres = [f"queries[{i}]" for i in range(len(batch.queries))]
    requests = [_request(q, where, dimension, settings) for q, where in zip(batch.queries, wheres, strict=True)]
    return SearchCall(requests, wheres, False, batch.columns)


def validate_body(model: type[Body], document: dict[str, Any]) -> Body:
    """Validate a body.

    Raises:
        InvalidRequest: it is wrong; `where` is the path of the first thing that is.
    """
    _refuse_unknown(model, document, "")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(_message(first), _path(first["loc"]) or None) from None


def _refuse_unknown(model: type[BaseModel], document: object, where: str) -> None:
    """Refuse keys that a model has not; before validation, which would collect an error for each of a million."""
    if not isinstance(document, dict):
        return
    unknown = document.keys() - model.model_fields.keys()
    if unknown:
        name = min(map(str, unknown))[:100]
        close = get_close_matches(name, model.model_fields, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(model.model_fields)}"
        raise InvalidRequest(f"unknown key {name!r}: {hint}", f"{where}.{name}" if where else name)


def _request(body: QueryBody, where: str, dimension: int, settings: RouterSettings) -> SearchRequest:
    def path(name: str) -> str:
        return f"{where}.{name}" if where else name

    if (body.vector is not None) + (body.vectors is not None) + (body.user is not None) != 1:
        raise InvalidRequest("expected exactly one of vector, vectors and user", where or None)
    vectors = body.vectors if body.vector is None else body.vector[np.newaxis]
    if vectors is not None and vectors.ndim == 1:
        if vectors.size == 0 or vectors.size % dimension:
            message = f"expected a bin of T x {dimension} float32 values, got {vectors.size}"
            raise InvalidRequest(message, path("vectors"))
        vectors = vectors.reshape(-1, dimension)
    timeout_s = settings.deadline_s if body.deadline_ms is None else body.deadline_ms / 1e3
    if timeout_s > settings.max_deadline_s:
        message = f"expected at most {settings.max_deadline_s * 1e3:g}, got {body.deadline_ms:g}"
        raise InvalidRequest(message, path("deadline_ms"))
    return SearchRequest(
        vectors=vectors,
        user=body.user,
        filter=body.filter,
        k=body.k,
        fields=tuple(body.fields),
        mode=body.mode,
        n_probe=body.n_probe,
        refine=body.refine,
        timeout_s=timeout_s,
        min_coverage=settings.min_coverage if body.min_coverage is None else body.min_coverage,
        min_seq=body.min_seq,
        explain=body.explain,
    )


def _path(location: tuple[int | str, ...]) -> str:
    """`("queries", 3, "k")` as `queries[3].k`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _message(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = str(error["msg"]).replace("Input should be", "expected")
    value = error["input"]
    got = repr(value)[:60] if isinstance(value, (bool, int, float, str)) else type(value).__name__
    return f"{message}, got {got}"
