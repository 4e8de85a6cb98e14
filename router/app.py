"""The HTTP application over a router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from silverray.router.endpoint import RankEndpoint, SearchEndpoint
from silverray.router.errors import to_document
from silverray.router.openapi import describe
from silverray.router.router import Router
from silverray.shard.api import Overloaded, SearchError

Status = Callable[[], Awaitable[dict[str, Any]]]

_SEARCH, _RANK = "/v1/search", "/v1/rank"


def create_app(router: Router, status: Status | None = None) -> FastAPI:
    """Make the ASGI application that serves a router.

    Args:
        router: answers the searches; its event loop is the application's.
        status: more entries for `GET /v1/status`, asked for at each call.

    Returns:
        An application with `/v1/search`, `/v1/rank`, `/v1/schema`, `/v1/status`, `/healthz`, `/readyz` and `/docs`.
        Every error, also of an unknown path, has the form `{"error": {"code", "message", "where"}}`.
    """
    app = _Application({_SEARCH: SearchEndpoint(router), _RANK: RankEndpoint(router)})
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_reports(app, router, status)
    describe(app, router.settings)
    return app


class _Application(FastAPI):
    """FastAPI for all but searches, which go past its middleware and routing: those cost more than half a search."""

    def __init__(self, endpoints: Mapping[str, SearchEndpoint]) -> None:
        super().__init__(title="Silverray", redoc_url=None, separate_input_output_schemas=False)
        self._endpoints = endpoints
        # First, since Serve tries the routes in order to name each request's in its metrics.
        self.router.routes[:0] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._endpoints:
            await self._endpoints[scope["path"]](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _add_reports(app: FastAPI, router: Router, status: Status | None) -> None:
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
            "tasks": list(catalog.tasks),
            "user_features": router.encodes,
            "schema": catalog.schema.model_dump(mode="json"),
        }

    @app.get("/v1/status", summary="Counters and measurements of this router since it started")
    async def report() -> dict[str, Any]:
        return router.to_document() | (await status() if status else {})

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
