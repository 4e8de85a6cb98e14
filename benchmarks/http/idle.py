"""A Serve application of the router's shape that does nothing: the bar for what serving a search may cost.

It parses the same bodies into the same requests, batches them the same way and calls the same number of shard
deployments through the same kind of handle; its shards answer at once, and every client gets the same canned reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.schema import ServeApplicationSchema
from starlette.types import Receive, Scope, Send

from silverray.router.http.codecs import request_codec
from silverray.router.http.parsing import parse_search
from silverray.router.settings import RouterSettings
from silverray.shard.api import SearchRequest

ROUTE = "/idle"
_NAME = "idle"
_MODULE = "silverray.benchmarks.http.idle"

Batch = list[tuple[SearchRequest, asyncio.Future[None]]]


class IdleArgs(BaseModel):
    """What the idle router is built from.

    Attributes:
        shards: number of shards to call.
        dimension: of the query vectors.
        slots: batches in flight at a time.
        contents: the canned reply by media type.
    """

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    shards: int
    dimension: int
    slots: int
    contents: dict[str, bytes]


class IdleShard:
    """Answers a batch with the shape of an answer."""

    async def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`[B, D]` queries to `[B, k]` keys and scores, all zero."""
        return np.zeros((len(queries), k), dtype=np.int64), np.zeros((len(queries), k), dtype=np.float32)


@serve.ingress()
class IdleRouter:
    """Parses, batches, calls, and says what it always says."""

    def __init__(self, args: IdleArgs) -> None:
        self._args = args
        self._settings = RouterSettings(slots=args.slots)
        self._shards: list[Any] = []
        self._queue: deque[tuple[SearchRequest, asyncio.Future[None]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._due = False

    def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                return await self._answer(scope, receive, send)
            while True:  # the life span of the application
                stage = (await receive())["type"]
                await send({"type": f"{stage}.complete"})
                if stage == "lifespan.shutdown":
                    return None

        return app

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        codec = request_codec(headers[b"content-type"].decode("latin-1"))
        body = (await receive())["body"]
        call = parse_search(codec.decode(body), self._args.dimension, self._settings)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._queue.append((call.requests[0], future))
        if not self._due and len(self._running) < self._settings.slots:
            self._due = True
            loop.call_soon(self._pump)
        await future
        content = self._args.contents[codec.media_type]
        length = b"%d" % len(content)
        head = [(b"content-type", codec.media_type.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": content})

    def _pump(self) -> None:
        self._due = False
        while self._queue and len(self._running) < self._settings.slots:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._settings.max_batch))]
            task = asyncio.create_task(self._ask(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _ask(self, batch: Batch) -> None:
        if not self._shards:
            handles = [serve.get_deployment_handle("shard", f"{_NAME}-{shard}") for shard in range(self._args.shards)]
            pickled = {"request_serialization": "pickle", "response_serialization": "pickle"}
            self._shards = [handle.options(method_name="search", **pickled) for handle in handles]
        queries = np.concatenate([request.vectors for request, _ in batch])
        k = max(request.k for request, _ in batch)
        await asyncio.gather(*(shard.remote(queries, k) for shard in self._shards))
        for _, future in batch:
            if not future.done():
                future.set_result(None)


def shard_application(args: dict[str, Any]) -> serve.Application:
    """Build one idle shard; Serve calls this by its import path."""
    return serve.deployment(IdleShard, name="shard").bind()


def router_application(args: dict[str, Any]) -> serve.Application:
    """Build the idle router from `IdleArgs`; Serve calls this by its import path."""
    return serve.deployment(IdleRouter, name="router").bind(IdleArgs.model_validate_json(args["json"]))


def describe_idle(args: IdleArgs, like: ServeApplicationSchema) -> list[ServeApplicationSchema]:
    """The idle applications, deployed with the options of a real router and its shards.

    Args:
        args: what the idle router is built from.
        like: a real application, whose deployment options are taken.
    """
    options = like.deployments[0].model_dump(exclude_unset=True, exclude={"name"})
    names = [f"{_NAME}-{shard}" for shard in range(args.shards)]
    applications = [_application(name, None, "shard", {}, options) for name in names]
    router = _application(f"{_NAME}-router", ROUTE, "router", {"json": args.model_dump_json()}, options)
    return [*applications, router]


def is_idle(application: str) -> bool:
    """Whether a Serve application is one of these."""
    return application.startswith(f"{_NAME}-")


def _application(
    name: str, route: str | None, deployment: str, args: dict[str, Any], options: dict[str, Any]
) -> ServeApplicationSchema:
    document = {
        "name": name,
        "route_prefix": route,
        "import_path": f"{_MODULE}:{deployment}_application",
        "args": args,
        "deployments": [{"name": deployment, **options}],
    }
    schema: ServeApplicationSchema = ServeApplicationSchema.model_validate(document)
    return schema
