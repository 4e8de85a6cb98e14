"""The declarative form of a service: a Ray Serve application per shard, one for the router and one for the encoder."""

from __future__ import annotations

import re
from typing import Any

from ray.serve.schema import ServeApplicationSchema

from silverray.cluster.config import ServeConfig
from silverray.cluster.serving.deployments import ROUTER_DEPLOYMENT, SHARD_DEPLOYMENT, RouterArgs, ShardArgs
from silverray.cluster.serving.encoders import ENCODER_DEPLOYMENT, EncoderArgs
from silverray.cluster.serving.layout import Layout
from silverray.router.callers import Callers
from silverray.router.settings import RouterSettings
from silverray.shard.live.sizes import ItemSizes
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import MODEL

_DEPLOYMENTS = "silverray.cluster.serving.deployments"
_ENCODERS = "silverray.cluster.serving.encoders"
_CALLS = 16
"""Two batches of each of several routers, and questions beside them; at Serve's 5, batches of one router would wait
for another's. More would queue in the shard, which computes one at a time."""
_GROWTH = 4
"""A default that catches a client which inserts without end before memory does, and leaves room for a catalog that
grows."""
_LEAST_MAX_ITEMS = 1_000_000
"""A small catalog may grow by more than fourfold: so many items take about a gigabyte at 128 dimensions."""


def describe_applications(config: ServeConfig, catalog: Catalog, layout: Layout) -> list[ServeApplicationSchema]:
    """Say which applications serve a layout.

    The arguments of a shard's application hold nothing that other shards, replicas or routers decide, so a
    change there leaves it running.
    """
    names = [f"{config.name}-shard-{shard}" for shard in range(layout.shards)]
    shards = [_shard(config, catalog, layout, name, held) for name, held in zip(names, layout.assignments, strict=True)]
    encoder = [_encoder(config, catalog)] if catalog.has_user_tower else []
    return [*shards, *encoder, _router(config, catalog, layout, names)]


def belongs_to(application: str, service: str) -> bool:
    """Whether a Serve application is part of a service."""
    return re.fullmatch(rf"{re.escape(service)}-(router|encoder|shard-\d+)", application) is not None


def _shard(
    config: ServeConfig, catalog: Catalog, layout: Layout, name: str, held: tuple[int, ...]
) -> ServeApplicationSchema:
    args = ShardArgs(
        snapshot=catalog.path,
        partitions=held,
        layout=layout.tag,
        shards=layout.shards,
        threads=config.threads,
        device=config.device,
        item_cache=config.item_cache,
        log=config.name if config.log else None,
        slack=config.log.slack if config.log else None,
        value=config.value,
        max_reply_bytes=config.limits.max_reply_bytes,
    )
    options = {
        "num_replicas": config.replicas,
        "max_ongoing_requests": _CALLS,
        "ray_actor_options": {"num_cpus": config.reserve.shard_cpus, "num_gpus": config.reserve.shard_gpus},
    }
    return _application(config, name, None, f"{_DEPLOYMENTS}:shard_application", args, SHARD_DEPLOYMENT, options)


def _encoder(config: ServeConfig, catalog: Catalog) -> ServeApplicationSchema:
    encoder, reserve = config.encoder, config.reserve
    args = EncoderArgs(
        model=catalog.path / MODEL,
        version=catalog.version,
        int8=encoder.int8,
        group=encoder.group,
        rank_cpus=reserve.rank_cpus,
    )
    options = {
        "num_replicas": encoder.replicas,
        "max_ongoing_requests": _CALLS,
        "ray_actor_options": {"num_cpus": reserve.encoder_cpus},
    }
    builder = f"{_ENCODERS}:encoder_application"
    return _application(config, _encoder_name(config), None, builder, args, ENCODER_DEPLOYMENT, options)


def _encoder_name(config: ServeConfig) -> str:
    return f"{config.name}-encoder"


def _router(config: ServeConfig, catalog: Catalog, layout: Layout, names: list[str]) -> ServeApplicationSchema:
    limits, batching = config.limits, config.batching
    args = RouterArgs(
        name=config.name,
        snapshot=catalog.path,
        assignments=layout.assignments,
        applications=tuple(names),
        takes_writes=config.log is not None,
        value=config.value,
        encoder=_encoder_name(config) if catalog.has_user_tower else None,
        max_items=_max_items(config, catalog),
        settings=RouterSettings(
            deadline_s=config.deadline_ms / 1e3,
            max_deadline_s=limits.max_deadline_ms / 1e3,
            min_coverage=limits.min_coverage,
            slots=batching.slots,
            max_batch=batching.max_batch,
            max_batch_items=batching.max_batch_items,
            max_pending=limits.max_pending,
            max_waiting=limits.max_waiting,
            max_queries=limits.max_queries,
            max_body_bytes=limits.max_body_bytes,
            max_reply_bytes=limits.max_reply_bytes,
            sizes=ItemSizes(
                max_field_bytes=limits.max_field_bytes, max_tags=limits.max_tags, max_dimension=limits.max_dimension
            ),
            callers=Callers.of(config.http.host, config.http.hosts, config.http.origins),
            max_waiting_bytes=limits.max_waiting_bytes,
            body_timeout_s=limits.body_timeout_s,
            diversity=config.diversity,
            rerank=config.rerank,
            quotas=config.quotas,
        ),
    )
    options = {
        "num_replicas": config.routers,
        # The router refuses by itself what is over its own bound; Serve's bounds stand behind it.
        "max_ongoing_requests": 2 * limits.max_pending + limits.max_waiting,
        "max_queued_requests": limits.max_pending,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "ray_actor_options": {"num_cpus": config.reserve.router_cpus},
        "health_check_timeout_s": config.health.router_timeout_s,
    }
    return _application(
        config, f"{config.name}-router", "/", f"{_DEPLOYMENTS}:router_application", args, ROUTER_DEPLOYMENT, options
    )


def _max_items(config: ServeConfig, catalog: Catalog) -> int | None:
    if config.log is None:
        return None
    return config.log.max_items or max(_GROWTH * catalog.items, _LEAST_MAX_ITEMS)


def _application(
    config: ServeConfig,
    name: str,
    route_prefix: str | None,
    builder: str,
    args: ShardArgs | EncoderArgs | RouterArgs,
    deployment: str,
    options: dict[str, Any],
) -> ServeApplicationSchema:
    health = {
        "health_check_period_s": config.health.period_s,
        "health_check_timeout_s": config.health.timeout_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": 5.0,
    }
    # Serve's line of log per request and call costs as much as parsing it; `/v1/status` counts them instead.
    quiet = {"logging_config": {"log_level": "WARNING"}}
    document = {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": builder,
        "args": args.model_dump(mode="json"),
        "deployments": [{"name": deployment, **health, **options, **quiet}],
    }
    schema: ServeApplicationSchema = ServeApplicationSchema.model_validate(document)
    return schema
