"""The Ray Serve deployments: thin shells around a shard's searcher and a router."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve._private.constants import RAY_SERVE_THROUGHPUT_OPTIMIZED

from silverray.cluster.log.actor import ActorLog
from silverray.cluster.log.follower import LogFollower
from silverray.cluster.log.writer import hide
from silverray.cluster.serving.encoders import EncoderCaller
from silverray.cluster.serving.gc_tuning import spare_loaded
from silverray.cluster.serving.handles import STATUS_S, ApplicationHandle
from silverray.cluster.serving.layout import Layout
from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.router.writes.counting import ItemCount
from silverray.router.writes.item_writer import ItemWriter
from silverray.router.writes.log import Reader
from silverray.shard.api import SearchError
from silverray.shard.engine.validation import Validator
from silverray.shard.index.placement import ItemCache
from silverray.shard.query import QueryBatch
from silverray.shard.result_batch import ResultBatch
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

SHARD_DEPLOYMENT = "shard"
ROUTER_DEPLOYMENT = "router"

_BY_REFERENCE_BYTES = 1 << 20
"""From about here the object store is faster than a message, which has a bound besides (decision 16.1)."""
_ITEM_BYTES = 20
"""Key and score take 12, a short string id 14 more. It may be off: a message may have 256 MiB."""
_FIELD_BYTES = 64
"""A text of usual length, pickled; numbers take less, and long texts make the estimate too small."""
_TASK_BYTES = 8
"""A prediction is a float32; likewise from above."""

_logger = logging.getLogger(__name__)


class ShardArgs(BaseModel):
    """What a shard's application is built from; never the index itself.

    Attributes:
        snapshot: the snapshot's directory.
        partitions: the partitions to hold.
        layout: tag of the layout that the shard belongs to.
        shards: number of shards in that layout.
        threads: compute threads; None shares the node's cores among the shards.
        device: where to compute.
        item_cache: where item vectors lie if `device` is a GPU.
        log: the service whose update log the shard follows; None for no updates.
        slack: free slots for each item when it is loaded; None for no updates.
        value: the formulas that value candidates.
        max_reply_bytes: most bytes of payload that the answers to a batch take on their way to a router.
    """

    model_config = ConfigDict(extra="forbid")

    snapshot: Path
    partitions: tuple[int, ...]
    layout: str
    shards: int
    threads: int | None
    device: str
    item_cache: ItemCache
    log: str | None
    slack: float | None
    value: ValueSettings
    max_reply_bytes: int | None = None


class RouterArgs(BaseModel):
    """What the router's application is built from.

    Attributes:
        name: the service.
        snapshot: the snapshot's directory.
        assignments: the layout's map of partitions to shards.
        applications: the shards' applications, in the layout's order.
        takes_writes: whether the service has an update log.
        value: the formulas that value candidates.
        encoder: the encoder's application; None where the snapshot has no user tower.
        max_items: how many items there may be; None is no bound.
        settings: limits and defaults of the router.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    snapshot: Path
    assignments: tuple[tuple[int, ...], ...]
    applications: tuple[str, ...]
    takes_writes: bool
    value: ValueSettings
    encoder: str | None
    max_items: int | None = None
    settings: RouterSettings


class ShardReplica:
    """One process of a shard.

    Args:
        args: what to hold.
    """

    async def __init__(self, args: ShardArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._layout = args.layout
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.shards)

        def load() -> ShardSearcher:
            return ShardSearcher.open(
                args.snapshot,
                args.partitions,
                threads=threads,
                device=args.device,
                item_cache=args.item_cache,
                slack=args.slack,
                value=args.value,
                max_reply_bytes=args.max_reply_bytes,
            )

        # The replica's event loop also answers health checks: nothing slow may run on it.
        self._searcher = await asyncio.to_thread(load)
        self._threads = threads
        # Waited for: Serve sends no request to a replica that is not made yet.
        self._follower = await self._follow(args.log) if args.log else None
        spare_loaded()

    def describe(self) -> dict[str, Any]:
        """What the replica computes with and what it takes, for a status reply."""
        engine = self._searcher.engine
        return {
            "items": engine.items,
            "kernels": engine.kernels,
            "scorer": engine.scorer,
            "threads": self._threads,
            "memory": engine.memory.describe(),
            "updates": self._describe_updates(),
        }

    def _describe_updates(self) -> dict[str, Any] | None:
        if self._follower is None or self._searcher.updates is None:
            return None
        status = self._searcher.updates.status()
        return {**self._follower.describe(), **status._asdict(), "outcome": status.outcome._asdict()}

    async def answer(self, layout: str, batch: QueryBatch) -> ResultBatch:
        """Answer a batch for a router of the same layout; an error of the whole batch is every query's."""
        try:
            if layout != self._layout:
                raise SearchError(f"asked for layout {layout!r}, this shard is of {self._layout!r}")
            return await self._searcher.answer(batch)
        except SearchError as error:
            return ResultBatch.failed([error] * len(batch), self._searcher.catalog.version)

    async def _follow(self, service: str) -> LogFollower:
        """Follow a service's log; returns once the shard has caught up, or cannot: searches go on without a log."""
        context = serve.get_replica_context()
        reader = Reader(context.app_name, context.replica_tag)
        follower = LogFollower(ActorLog(service), reader, self._searcher.apply, self._searcher.applied)
        follower.start()
        if not await follower.settled():
            _logger.warning("serving without having caught up with the log: %s", follower.describe())
        return follower


class ShardCaller:
    """A `Shard` that asks a shard's application; a cancelled call is cancelled in the shard too.

    Args:
        application: name of the shard's application.
        layout: tag of the layout that the caller routes by.
    """

    def __init__(self, application: str, layout: str) -> None:
        self._handle = ApplicationHandle(SHARD_DEPLOYMENT, application)
        self._layout = layout

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        """Answer a batch; see `Shard`."""
        long = _reply_bytes(batch) > _BY_REFERENCE_BYTES
        results: ResultBatch = await self._handle.call("answer", self._layout, batch, by_reference=long)
        return results

    async def describe(self) -> dict[str, Any] | None:
        """What one replica of the shard computes with; None if it does not say so in time."""
        return await self._handle.describe()


@serve.ingress()
class RouterReplica:
    """One router process: the HTTP application over all shards.

    Args:
        args: what to route.
    """

    def __init__(self, args: RouterArgs) -> None:
        self._name = args.name
        catalog = Catalog.open(args.snapshot)
        self._layout = Layout(catalog.version, args.assignments)
        self._shards = {name: ShardCaller(name, self._layout.tag) for name in args.applications}
        backends = [
            Backend(name, caller, catalog.items_in(held), held)
            for (name, caller), held in zip(self._shards.items(), args.assignments, strict=True)
        ]
        self._encoder = EncoderCaller(args.encoder, catalog.version) if args.encoder else None
        validator = Validator(catalog, Valuer(args.value, catalog.tasks, catalog.schema))
        self._log = ActorLog(args.name) if args.takes_writes else None
        self._router = Router(
            catalog, backends, self._encoder, settings=args.settings, validator=validator, log=self._log
        )
        self._count = ItemCount(self._held) if self._log else None
        self._items = (
            ItemWriter(catalog, self._log, args.applications, self._count, args.max_items) if self._log else None
        )

    def __serve_build_asgi_app__(self) -> Any:
        app = create_app(self._router, self._status, self._items, self._count)
        spare_loaded()
        return app

    async def _status(self) -> dict[str, Any]:
        encoder, *replicas = await asyncio.gather(self._describe_encoder(), *self._describe())
        return {
            "service": self._name,
            "layout": {"tag": self._layout.tag, "shards": self._layout.shards},
            "router": serve.get_replica_context().replica_tag,
            "throughput_optimized": RAY_SERVE_THROUGHPUT_OPTIMIZED,
            "replicas": dict(zip(self._shards, replicas, strict=True)),
            "encoder": encoder,
            "applications": await self._applications(),
            "log": await self._describe_log(),
        }

    async def _describe_log(self) -> dict[str, Any] | None:
        if self._log is None:
            return None
        try:
            state = await self._log.describe()
        except SearchError as error:
            return {"error": str(error)}
        return without_place(state)

    async def _held(self) -> int | None:
        """How many items the shards hold now; None if one does not tell."""
        told = await asyncio.gather(*self._describe())
        counts = [one["items"] for one in told if one is not None]
        return sum(counts) if len(counts) == len(told) else None

    def _describe(self) -> list[Coroutine[Any, Any, dict[str, Any] | None]]:
        return [caller.describe() for caller in self._shards.values()]

    async def _describe_encoder(self) -> dict[str, Any] | None:
        return await self._encoder.describe() if self._encoder else None

    async def _applications(self) -> dict[str, Any] | None:
        try:
            status = await asyncio.wait_for(asyncio.to_thread(serve.status), STATUS_S)
        except TimeoutError:
            return None
        return {
            name: {
                "status": application.status.value,
                "replicas": {
                    state: count
                    for deployment in application.deployments.values()
                    for state, count in deployment.replica_states.items()
                },
            }
            for name, application in status.applications.items()
            if name.startswith(f"{self._name}-")
        }


def shard_application(args: dict[str, Any]) -> serve.Application:
    """Build the application of one shard from `ShardArgs`; Serve calls this by its import path."""
    return serve.deployment(ShardReplica, name=SHARD_DEPLOYMENT).bind(ShardArgs.model_validate(args))


def router_application(args: dict[str, Any]) -> serve.Application:
    """Build the application of the router from `RouterArgs`; Serve calls this by its import path."""
    return serve.deployment(RouterReplica, name=ROUTER_DEPLOYMENT).bind(RouterArgs.model_validate(args))


def without_place(state: dict[str, Any]) -> dict[str, Any]:
    """A log's state as clients are told it: where its file lies is for the operator alone, who has it from `serve`."""
    path = str(state.get("path", ""))
    told = {name: value for name, value in state.items() if name not in ("path", "identity")}
    return told | {"error": hide(state["error"], path)} if "error" in state else told


def _reply_bytes(batch: QueryBatch) -> int:
    """About how many bytes the answers to a batch take."""
    _, tasks, dimension = batch.vectors.shape
    size = 0
    for k, fields, features in zip(batch.k, batch.fields, batch.features, strict=True):
        own = 0 if features is None else 4 * dimension + 8 * len(features)
        size += k * (_ITEM_BYTES + _TASK_BYTES * tasks + _FIELD_BYTES * len(fields) + own)
    return size
