"""Decoded bodies to search requests, with errors that name the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from silverray.router.http.schemas import BatchBody, DiversifyBody, QueryBody, RankBody, SearchBody, UserBody
from silverray.router.settings import RouterSettings
from silverray.shard.api import MAX_K, InvalidRequest, ItemId, SearchRequest, json_type, shown
from silverray.shard.schema.keys import hash_texts
from silverray.shard.snapshot.catalog import IdType

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SearchCall:
    """What a body asks for.

    Attributes:
        requests: its queries; their time-outs count from when the body was received.
        wheres: the path of each query in the body.
        alone: whether the body was one query, not a list of them.
        columns: whether columnar results are wanted.
        ids: what a ranking asks for, by key.
    """

    requests: list[SearchRequest]
    wheres: list[str]
    alone: bool
    columns: bool
    ids: Mapping[int, ItemId] = field(default_factory=dict)


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
        raise InvalidRequest(f"expected an object, got {json_type(document)}")
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


_OF_SEARCHES = sorted(QueryBody.model_fields.keys() - UserBody.model_fields.keys() - {"diversify"})
"""What a search says beside what rankings say too; a request has it under the same name."""


def _request(body: QueryBody, where: str, dimension: int, settings: RouterSettings) -> SearchRequest:
    return SearchRequest(
        **_common(body, where, dimension, settings),
        **{name: getattr(body, name) for name in _OF_SEARCHES},
        diversify=None if body.diversify is None else _strength(body.diversify, settings),
    )


def _common(body: UserBody, where: str, dimension: int, settings: RouterSettings) -> dict[str, Any]:
    """What a search and a ranking say alike, by the names of `SearchRequest`."""

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
        message = f"expected at most {settings.max_deadline_s * 1e3:g}, got {body.deadline_ms:.15g}"
        raise InvalidRequest(message, path("deadline_ms"))
    return {
        "vectors": vectors,
        "user": body.user,
        "fields": tuple(body.fields),
        "timeout_s": timeout_s,
        "min_coverage": settings.min_coverage if body.min_coverage is None else body.min_coverage,
        "min_seq": body.min_seq,
        "explain": body.explain,
        "variant": body.variant,
        "context": body.context,
    }


def parse_rank(document: object, dimension: int, id_type: IdType, settings: RouterSettings) -> SearchCall:
    """Check the body of a ranking and turn it into a request.

    Args:
        document: the decoded body.
        dimension: of the catalog's vectors.
        id_type: of the catalog's ids.
        settings: defaults and limits.

    Raises:
        InvalidRequest: the body is wrong; `where` is the path of the first thing that is.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(f"expected an object, got {json_type(document)}")
    body = validate_body(RankBody, document)
    if not 1 <= len(body.ids) <= MAX_K:
        raise InvalidRequest(f"expected 1 to {MAX_K} ids, got {len(body.ids)}", "ids")
    keys = _keys(body.ids, id_type)
    ids = body.ids if isinstance(body.ids, list) else body.ids.tolist()
    by_key = dict(zip(keys.tolist(), ids, strict=True))
    once = np.array(list(by_key), dtype=np.int64)  # an answer with each of them is not short
    request = SearchRequest(**_common(body, "", dimension, settings), keys=once, k=len(once))
    return SearchCall([request], [""], True, False, by_key)


def _keys(ids: list[Any] | NDArray[np.int64], id_type: IdType) -> NDArray[np.int64]:
    """The keys of ids, each once or more."""
    if isinstance(ids, np.ndarray) and id_type == "int":
        if ids.min() < 0:
            raise InvalidRequest("expected integers of 0 or more", f"ids[{int(ids.argmin())}]")
        return ids
    wanted = "a string" if id_type == "string" else "an integer of 0 to 2^63 - 1"
    for place, one in enumerate(ids):
        good = isinstance(one, str) if id_type == "string" else type(one) is int and 0 <= one < 2**63
        if not good:
            raise InvalidRequest(f"expected {wanted}, got {shown(one)}", f"ids[{place}]")
    return hash_texts(ids) if id_type == "string" else np.array(ids, dtype=np.int64)


def _strength(body: DiversifyBody, settings: RouterSettings) -> float:
    return settings.diversity.strength if body.strength is None else body.strength


def _path(location: tuple[int | str, ...]) -> str:
    """`("queries", 3, "k")` as `queries[3].k`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


_EXPECTED = {
    "list_type": "expected an array",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "bool_type": "expected a valid boolean",
}
"""What Pydantic says in Python's words, in those of JSON."""


def _message(error: Any) -> str:
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "missing":
            return "is missing"
        case "too_short":
            return f"expected at least {error['ctx']['min_length']} item, got {error['ctx']['actual_length']}"
    message = _EXPECTED.get(error["type"]) or str(error["msg"]).replace("Input should be", "expected")
    return f"{message}, got {shown(error['input'])}"
