"""The HTTP application over a router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from silverray.router.callers import Callers
from silverray.router.errors import to_document
from silverray.router.http.body_reader import BodyReader
from silverray.router.http.codecs import JSON, reply_codec
from silverray.router.http.endpoint import RankEndpoint, SearchEndpoint
from silverray.router.http.headers import read_headers
from silverray.router.http.item_endpoint import ItemsEndpoint
from silverray.router.http.manual import MANUAL_HEADERS, render_manual
from silverray.router.http.openapi import describe
from silverray.router.router import Router
from silverray.router.writes.counting import ItemCount
from silverray.router.writes.item_writer import ItemWriter
from silverray.shard.api import Overloaded, SearchError

Status = Callable[[], Awaitable[dict[str, Any]]]


def create_app(
    router: Router, status: Status | None = None, items: ItemWriter | None = None, count: ItemCount | None = None
) -> FastAPI:
    """Make the ASGI application that serves a router.

    Args:
        router: answers the searches; its event loop is the application's.
        status: more entries for `GET /v1/status`, asked for at each call.
        items: takes the writes; None where there is no update log, so that writes are refused.
        count: knows how many items there are now; None where their number does not change.

    Returns:
        An application with `/v1/search`, `/v1/rank`, `/v1/items`, `/v1/schema`, `/v1/status`, `/healthz`, `/readyz` and
        `/docs`. Every error, also of an unknown path, has the form `{"error": {"code", "message", "where"}}`.
    """
    reader = BodyReader(router.settings)
    endpoints: dict[str, ASGIApp] = {
        "/v1/search": SearchEndpoint(router, reader),
        "/v1/rank": RankEndpoint(router, reader),
        "/v1/items": ItemsEndpoint(items, router.settings),
    }
    app = _Application(endpoints, router.settings.callers)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_reports(app, router, status, items, count)
    describe(app, router, writes=items is not None)
    _add_manual(app)
    return app


class _Application(FastAPI):
    """FastAPI for all but searches and writes, which go past it: its routing costs more than half a search."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], callers: Callers) -> None:
        super().__init__(title="Silverray", docs_url=None, redoc_url=None, separate_input_output_schemas=False)
        self._endpoints = endpoints
        self._callers = callers
        self._inside: ASGIApp = self._dispatch
        if callers.origins:  # their pages must be able to read the answers, and to ask beforehand whether they may send
            self._inside = CORSMiddleware(
                self._dispatch,
                allow_origins=sorted(callers.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            )
        # First, since Serve tries the routes in order to name each request's in its metrics.
        self.router.routes[:0] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._callers.check(scope["method"], read_headers(scope["headers"]))
            except SearchError as error:
                await _error_response(Request(scope), error, error.status)(scope, receive, send)
                return
        await self._inside(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._endpoints:
            await self._endpoints[scope["path"]](scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            await super().__call__({**scope, "method": "GET"}, receive, _bodiless(send))
        else:
            await super().__call__(scope, receive, send)


def _bodiless(send: Send) -> Send:
    """Send what a GET would get, without its body: load balancers probe with HEAD."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


def _add_reports(
    app: FastAPI, router: Router, status: Status | None, items: ItemWriter | None, count: ItemCount | None
) -> None:
    catalog = router.catalog

    @app.get("/v1/schema", summary="What is served: schema, version, vector space, number of items")
    async def schema() -> dict[str, Any]:
        """`items` is their number now, at most a second old, or null while a shard does not tell."""
        return {
            "version": catalog.version,
            "seq": catalog.seq,
            "items": await count.now() if count else catalog.items,
            "published_items": catalog.items,
            "id_type": catalog.id_type,
            "dimension": catalog.dimension,
            "metric": catalog.metric,
            "vector_space": catalog.vector_space,
            "writes": items is not None,
            "tasks": list(catalog.tasks),
            "user_features": router.encodes,
            "schema": catalog.schema.model_dump(mode="json"),
        }

    @app.get("/v1/status", summary="Counters and measurements of this router since it started")
    async def report() -> dict[str, Any]:
        writes = {"writes": items.to_document()} if items else {}
        return router.to_document() | writes | (await status() if status else {})

    @app.get("/healthz", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether every shard has answered once; 503 until then")
    async def ready(request: Request) -> Response:
        if silent := await router.silent():
            error = SearchError(f"shards that have not answered yet: {', '.join(silent)}")
            error.code = "not_ready"
            return _error_response(request, error, 503, {"Retry-After": str(Overloaded.RETRY_AFTER_S)})
        return JSONResponse({"status": "ready"})


def _add_manual(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def manual() -> HTMLResponse:
        return HTMLResponse(render_manual(app.openapi()), headers=MANUAL_HEADERS)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "not_found", 405: "method_not_allowed"}
    content = SearchError(f"{request.method} {request.url.path}: {error.detail}")
    content.code = known.get(error.status_code, "http_error")
    return _error_response(request, content, error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    return _error_response(request, SearchError("internal error"), 500)


def _error_response(
    request: Request, error: SearchError, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    codec = reply_codec(", ".join(request.headers.getlist("accept")), JSON)
    return Response(codec.dumps(to_document(error)), status, headers, codec.media_type)
