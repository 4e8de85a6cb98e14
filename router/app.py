"""The HTTP application over a router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from silverray.router.body_reader import BodyReader
from silverray.router.endpoint import RankEndpoint, SearchEndpoint
from silverray.router.errors import to_document
from silverray.router.item_endpoint import ItemsEndpoint
from silverray.router.item_writer import ItemWriter
from silverray.router.openapi import describe
from silverray.router.router import Router
from silverray.shard.api import Overloaded, SearchError

Status = Callable[[], Awaitable[dict[str, Any]]]


def create_app(router: Router, status: Status | None = None, items: ItemWriter | None = None) -> FastAPI:
    """Make the ASGI application that serves a router.

    Args:
        router: answers the searches; its event loop is the application's.
        status: more entries for `GET /v1/status`, asked for at each call.
        items: takes the writes; None where there is no update log, so that writes are refused.

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
    app = _Application(endpoints)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_reports(app, router, status, items)
    describe(app, router.settings)
    return app


class _Application(FastAPI):
    """FastAPI for all but searches and writes, which go past it: its routing costs more than half a search."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        super().__init__(title="Silverray", redoc_url=None, separate_input_output_schemas=False)
        self._endpoints = endpoints
        # First, since Serve tries the routes in order to name each request's in its metrics.
        self.router.routes[:0] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._endpoints:
            await self._endpoints[scope["path"]](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _add_reports(app: FastAPI, router: Router, status: Status | None, items: ItemWriter | None) -> None:
    catalog = router.catalog

    @app.get("/v1/schema", summary="What is served: schema, version, vector space")
    async def schema() -> dict[str, Any]:
        return {
            "version": catalog.version,
            "seq": catalog.seq,
            "items": catalog.items,
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
    async def ready() -> JSONResponse:
        if silent := await router.silent():
            error = SearchError(f"shards that have not answered yet: {', '.join(silent)}")
            error.code = "not_ready"
            return JSONResponse(to_document(error), 503, {"Retry-After": str(Overloaded.RETRY_AFTER_S)})
        return JSONResponse({"status": "ready"})


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    known = {404: "not_found", 405: "method_not_allowed"}
    content = SearchError(f"{request.method} {request.url.path}: {error.detail}")
    content.code = known.get(error.status_code, "http_error")
    return JSONResponse(to_document(content), error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(to_document(SearchError("internal error")), 500)
