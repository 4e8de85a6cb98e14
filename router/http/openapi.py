"""The OpenAPI description of what FastAPI does not see: searches, writes and the errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from silverray.router.http.item_schemas import ItemsBody, ItemsResult, PatchItem, UpsertItem
from silverray.router.http.promises import Promises
from silverray.router.http.schemas import (
    BatchBody,
    BatchResult,
    ErrorReply,
    RankBody,
    RankResult,
    SearchBody,
    SearchResult,
)
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.router.stages.compile import MAX_FILTER_TEXT

_MODELS: tuple[type[BaseModel], ...] = (
    *(SearchBody, BatchBody, RankBody, SearchResult, BatchResult, RankResult, ErrorReply),
    *(ItemsBody, UpsertItem, PatchItem, ItemsResult),
)

_ABOUT = """Filtered nearest-neighbour search over the shards of one snapshot.

**Bodies** are JSON or MessagePack by `Content-Type`; a reply is in the form that `Accept` would rather have (by
`q`, then by order), else in that of its request. Compressed bodies are not read, and a key may stand only once
in an object. In MessagePack a vector may be a bin of little-endian float32, and `"columns": true` asks for
results with packed columns: `ids` (bin of little-endian int64; a list where ids are strings), `scores` (bin of
little-endian float32), `fields` (a list per field) and, where items are ranked, `tasks` and `found_by` (by task
a bin of little-endian float32; minus infinity where a task did not find an item).

**Ids**: integer ids are int64. JavaScript's numbers, and whatever else reads JSON numbers as doubles, lose
precision above 2^53.

**Vectors** are rounded to float32. With inner products their length is at most 1e18, so that every score is a
finite number; with cosine it is anything but zero.

**Deadlines** count from when a request is received. A reply rests on the shards that had answered by then and
says so in `coverage`.

**Writes** are in the log, on its disk, when they are acknowledged, and searches see them within moments: a
search waits for that with `min_seq`, a write with `wait`. Writing the same items again does no harm.

**Errors** have the form `{"error": {"code", "message", "where"}}`; those of a filter add `position`,
`expected` and `hint`. Replies with 503 carry `Retry-After`. What Ray Serve's proxy says by
itself is no JSON: HTML with 400 for a request that it cannot parse or whose headers are longer than its buffer,
and the text `Internal Server Error` with 500 where no router answers; the latter is to be repeated.

**Pages** of other origins may not send bodies, and a service on loopback answers to the names of loopback only, unless
its configuration says otherwise (`http.origins`, `http.hosts`)."""

_ERRORS = {
    400: "`malformed_body`: not JSON or MessagePack. `repeated_header`: `where` names a header that stands twice",
    403: "`foreign_origin`, `foreign_host`: a web page of elsewhere may have sent it",
    408: "`body_timeout`: the body was not sent in time",
    413: "`body_too_large`",
    415: "`unsupported_media_type`: neither JSON nor MessagePack, or compressed",
    422: "`invalid_request`, `invalid_filter`: `where` names the place. `reply_too_large`: ask for less.",
    500: "`internal`: a fault of the server",
    503: "`overloaded`, `unavailable`, `coverage_too_low`, `sequence_not_reached`, `encoder_unavailable`",
    504: "`deadline_exceeded`: no shard, or no user vector, in time",
}
_WRITE_ERRORS = {
    **{status: _ERRORS[status] for status in (400, 408, 413, 415, 500)},
    403: "`writes_disabled`: the service has no update log. `foreign_origin`, `foreign_host`",
    422: "`invalid_request`: the body as a whole is wrong, or names an id twice. Nothing was written.",
    503: "`log_unavailable`, `overloaded`: the log cannot take writes now; write them again later. `log_full`,"
    " `catalog_full`: there is as much as `log.max_bytes` or `log.max_items` allow",
}


def describe(app: FastAPI, router: Router, *, writes: bool) -> None:
    """Give an application a description that holds searches and writes as well.

    Args:
        app: the application; its `openapi` is replaced.
        router: whose catalog and limits the description names.
        writes: whether there is a log that takes writes.
    """
    settings, promises = router.settings, Promises(router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            about = f"{_ABOUT}\n\n**Limits** of this server: {_limits(settings)}."
            document = get_openapi(title=app.title, version=app.version, description=about, routes=app.routes)
            template = "#/components/schemas/{model}"
            _, schemas = models_json_schema([(m, "validation") for m in _MODELS], ref_template=template)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(schemas["$defs"])
            promises.narrow(components)
            searched = _operation(
                "search",
                "Search, one query or several",
                (SearchBody, BatchBody),
                (SearchResult, BatchResult),
                promises.search(),
            )
            ranked = _operation(
                "rank",
                "Rank given items for a user, by scorer and formula",
                (RankBody,),
                (RankResult,),
                promises.rank(),
            )
            document["paths"] |= {
                "/v1/search": {"post": searched},
                "/v1/rank": {"post": ranked},
                "/v1/items": {"post": _write(promises.write() if writes else None)},
            }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _limits(settings: RouterSettings) -> str:
    sizes = settings.sizes
    return (
        f"{settings.max_body_bytes:,} bytes, {settings.max_queries} queries and {MAX_FILTER_TEXT:,} characters of"
        f" different filters a body, {settings.max_reply_bytes:,} bytes a reply,"
        f" deadlines up to {settings.max_deadline_s * 1e3:,.0f} ms (default {settings.deadline_s * 1e3:,.0f});"
        f" in an item that is written {sizes.max_field_bytes:,} bytes of text and {sizes.max_tags:,} tags a field, and"
        f" {sizes.max_dimension:,} numbers in a vector of another space"
    )


def _operation(
    name: str,
    summary: str,
    bodies: tuple[type[BaseModel], ...],
    results: tuple[type[BaseModel], ...],
    example: dict[str, Any],
) -> dict[str, Any]:
    about = "The result" if len(results) == 1 else "The result, or one per query"
    return {
        "summary": summary,
        "operationId": name,
        "requestBody": {"required": True, "content": _with_example(_content(*bodies), example)},
        "responses": {
            "200": {"description": about, "content": _content(*results)},
            **_failures(_ERRORS),
        },
    }


def _write(example: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "summary": "Upsert, delete and patch items",
        "operationId": "write",
        "requestBody": {"required": True, "content": _with_example(_content(ItemsBody), example)},
        "responses": {
            "200": {"description": "What became of each item", "content": _content(ItemsResult)},
            **_failures(_WRITE_ERRORS),
        },
    }


def _with_example(content: dict[str, Any], example: dict[str, Any] | None) -> dict[str, Any]:
    return content if example is None else {form: {**schema, "example": example} for form, schema in content.items()}


def _failures(errors: dict[int, str]) -> dict[str, Any]:
    return {str(status): {"description": about, "content": _content(ErrorReply)} for status, about in errors.items()}


def _content(*models: type[BaseModel]) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {media_type: {"schema": schema} for media_type in ("application/json", "application/msgpack")}
