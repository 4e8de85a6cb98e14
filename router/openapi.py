"""The OpenAPI description of what FastAPI does not see: searches, writes and the errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from silverray.router.bodies import BatchBody, BatchResult, ErrorReply, RankBody, RankResult, SearchBody, SearchResult
from silverray.router.item_bodies import ItemsBody, ItemsResult, PatchItem, UpsertItem
from silverray.router.settings import RouterSettings

_MODELS: tuple[type[BaseModel], ...] = (
    *(SearchBody, BatchBody, RankBody, SearchResult, BatchResult, RankResult, ErrorReply),
    *(ItemsBody, UpsertItem, PatchItem, ItemsResult),
)

_ABOUT = """Filtered nearest-neighbour search over the shards of one snapshot.

**Bodies** are JSON or MessagePack by `Content-Type`; a reply is in the form that `Accept` names first, else
in that of its request. In MessagePack a vector may be a bin of little-endian float32, and `"columns": true`
asks for results with packed columns: `ids` (bin of little-endian int64; a list where ids are strings),
`scores` (bin of little-endian float32), `fields` (a list per field) and, where items are ranked, `tasks` and
`found_by` (by task a bin of little-endian float32; minus infinity where a task did not find an item).

**Ids**: integer ids are int64. JavaScript's numbers, and whatever else reads JSON numbers as doubles, lose
precision above 2^53.

**Deadlines** count from when a request is received. A reply rests on the shards that had answered by then and
says so in `coverage`.

**Writes** are in the log, on its disk, when they are acknowledged, and searches see them within moments: a
search waits for that with `min_seq`, a write with `wait`. Writing the same items again does no harm.

**Errors** have the form `{"error": {"code", "message", "where"}}`; those of a filter add `position`,
`expected` and `hint`. Replies with 503 carry `Retry-After`."""

_ERRORS = {
    400: "`malformed_body`: not JSON or MessagePack",
    408: "`body_timeout`: the body was not sent in time",
    413: "`body_too_large`",
    415: "`unsupported_media_type`",
    422: "`invalid_request`, `invalid_filter`: `where` names the place. Nothing was searched.",
    500: "`internal`: a fault of the server",
    503: "`overloaded`, `unavailable`, `coverage_too_low`, `sequence_not_reached`, `encoder_unavailable`",
    504: "`deadline_exceeded`: no shard, or no user vector, in time",
}
_WRITE_ERRORS = {
    **{status: _ERRORS[status] for status in (400, 408, 413, 415, 500)},
    403: "`writes_disabled`: the service has no update log",
    422: "`invalid_request`: the body as a whole is wrong, or names an id twice. Nothing was written.",
    503: "`log_unavailable`, `overloaded`: the log cannot take writes now; write them again later",
}


def describe(app: FastAPI, settings: RouterSettings) -> None:
    """Give an application a description that holds searches and writes as well.

    Args:
        app: the application; its `openapi` is replaced.
        settings: whose limits the description names.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            about = f"{_ABOUT}\n\n**Limits** of this server: {_limits(settings)}."
            document = get_openapi(title=app.title, version=app.version, description=about, routes=app.routes)
            template = "#/components/schemas/{model}"
            _, schemas = models_json_schema([(m, "validation") for m in _MODELS], ref_template=template)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(schemas["$defs"])
            searched = _operation(
                "search", "Search, one query or several", (SearchBody, BatchBody), (SearchResult, BatchResult)
            )
            ranked = _operation(
                "rank", "Rank given items for a user, by scorer and formula", (RankBody,), (RankResult,)
            )
            document["paths"] |= {
                "/v1/search": {"post": searched},
                "/v1/rank": {"post": ranked},
                "/v1/items": {"post": _write()},
            }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _limits(settings: RouterSettings) -> str:
    return (
        f"{settings.max_body_bytes:,} bytes and {settings.max_queries} queries a body, deadlines up to"
        f" {settings.max_deadline_s * 1e3:,.0f} ms (default {settings.deadline_s * 1e3:,.0f})"
    )


def _operation(
    name: str, summary: str, bodies: tuple[type[BaseModel], ...], results: tuple[type[BaseModel], ...]
) -> dict[str, Any]:
    about = "The result" if len(results) == 1 else "The result, or one per query"
    return {
        "summary": summary,
        "operationId": name,
        "requestBody": {"required": True, "content": _content(*bodies)},
        "responses": {
            "200": {"description": about, "content": _content(*results)},
            **_failures(_ERRORS),
        },
    }


def _write() -> dict[str, Any]:
    return {
        "summary": "Upsert, delete and patch items",
        "operationId": "write",
        "requestBody": {"required": True, "content": _content(ItemsBody)},
        "responses": {
            "200": {"description": "What became of each item", "content": _content(ItemsResult)},
            **_failures(_WRITE_ERRORS),
        },
    }


def _failures(errors: dict[int, str]) -> dict[str, Any]:
    return {str(status): {"description": about, "content": _content(ErrorReply)} for status, about in errors.items()}


def _content(*models: type[BaseModel]) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {media_type: {"schema": schema} for media_type in ("application/json", "application/msgpack")}
