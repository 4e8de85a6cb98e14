import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silverray.cluster.config import ServeConfig
from silverray.cluster.serving.applications import describe_applications
from silverray.cluster.serving.deployments import RouterArgs, ShardArgs, ShardReplica, without_place
from silverray.cluster.serving.layout import Layout
from silverray.cluster.serving.service import start
from silverray.cluster.strict_yaml import ConfigError
from silverray.router.callers import Callers
from silverray.router.settings import DiversitySettings, RerankSettings
from silverray.shard.api import SearchReply, SearchRequest, SequenceNotReached
from silverray.shard.engine.validation import Validator
from silverray.shard.index.loader import LoadedPartitions, load_partitions
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.live.sizes import ItemSizes
from silverray.shard.query import Query, QueryBatch
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles


def test_no_application_logs_every_request(store: Path) -> None:
    catalog = Catalog.open(store / "v1")
    config = ServeConfig(snapshots=store, shards=2)
    applications = describe_applications(config, catalog, Layout.spread("v1", catalog.partitions, 2))
    levels = [one.logging_config.log_level for app in applications for one in app.deployments]
    assert levels == ["WARNING"] * 3


def test_a_router_gets_the_diversity_and_the_window_of_the_configuration(store: Path) -> None:
    catalog, layout = Catalog.open(store / "v1"), Layout.spread("v1", 16, 2)
    diversity = DiversitySettings(strength=1, window=5, oversample=2, spacing={"country": 0.5})
    config = ServeConfig(snapshots=store, shards=2, diversity=diversity, rerank=RerankSettings(window=30))
    *_, router = describe_applications(config, catalog, layout)
    settings = RouterArgs.model_validate(router.args).settings
    assert (settings.diversity, settings.rerank.window) == (diversity, 30)


def test_routers_and_shards_get_the_bounds_of_the_configuration(store: Path) -> None:
    catalog, layout = Catalog.open(store / "v1"), Layout.spread("v1", 16, 2)
    config = ServeConfig.model_validate(
        {
            "snapshots": store,
            "shards": 2,
            "http": {"hosts": ["films.example"], "origins": ["https://films.example"]},
            "limits": {"max_reply_bytes": 1, "max_field_bytes": 2, "max_tags": 3, "max_dimension": 4},
            "log": {"path": "updates.db", "max_items": 5},
        }
    )
    shard, _, router = describe_applications(config, catalog, layout)
    args = RouterArgs.model_validate(router.args)
    assert ShardArgs.model_validate(shard.args).max_reply_bytes == args.settings.max_reply_bytes == 1
    assert args.settings.sizes == ItemSizes(max_field_bytes=2, max_tags=3, max_dimension=4)
    names = {"localhost", "127.0.0.1", "[::1]", "films.example"}
    assert args.settings.callers == Callers(frozenset(names), frozenset({"https://films.example"}))
    assert args.max_items == 5
    *_, router = describe_applications(ServeConfig(snapshots=store, shards=2), catalog, layout)
    assert RouterArgs.model_validate(router.args).max_items is None


def test_status_does_not_tell_where_the_log_lies() -> None:
    state = {"path": "/var/lib/u.db", "identity": "7f", "last": 4, "error": "/var/lib/u.db: not found", "other": False}
    assert without_place(state) == {"last": 4, "error": "u.db: not found", "other": False}


def test_a_router_gets_the_limits_of_the_configuration_and_longer_to_answer_health_checks(store: Path) -> None:
    catalog, layout = Catalog.open(store / "v1"), Layout.spread("v1", 16, 2)
    limits = {"max_pending": 7, "max_waiting": 8, "max_waiting_bytes": 9, "body_timeout_s": 1.5}
    document = {
        "snapshots": store,
        "shards": 2,
        "limits": limits,
        "health": {"timeout_s": 3.0, "router_timeout_s": 20.0},
    }
    shard, _, router = describe_applications(ServeConfig.model_validate(document), catalog, layout)
    settings = RouterArgs.model_validate(router.args).settings
    assert {name: getattr(settings, name) for name in limits} == limits
    timeouts = [one.deployments[0].health_check_timeout_s for one in (shard, router)]
    assert timeouts == [3.0, 20.0]


def test_spacing_of_an_unknown_category_is_refused_before_anything_starts(store: Path) -> None:
    config = ServeConfig(snapshots=store, diversity=DiversitySettings(spacing={"genres": 0.5}))
    with pytest.raises(ConfigError, match=r"diversity\.spacing\.genres: expected a filterable category .* \(country\)"):
        start(config)


def test_shards_and_routers_get_the_formulas_and_quotas_of_the_configuration(store: Path) -> None:
    catalog, layout = Catalog.open(store / "v1"), Layout.spread("v1", 16, 2)
    value = {"default": "default * 2", "variants": {"b": "default"}, "context": {"hour": {"type": "int"}}}
    config = ServeConfig.model_validate({"snapshots": store, "shards": 2, "value": value, "quotas": {"click": 3}})
    shard, _, router = describe_applications(config, catalog, layout)
    args = RouterArgs.model_validate(router.args)
    assert ShardArgs.model_validate(shard.args).value == args.value == config.value
    assert args.settings.quotas == {"click": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"value": {"default": "default * yaer"}},
            r"value\.default: unknown name yaer \(at character 10",
        ),
        ({"value": {"default": "1", "variants": {"b": "default +"}}}, r"value\.variants\.b: .* \(at character 9"),
        ({"quotas": {"default": 1}}, r"quotas\.default: expected none for a model with one task"),
    ],
)
def test_wrong_formulas_and_quotas_are_refused_before_anything_starts(
    store: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start(ServeConfig.model_validate({"snapshots": store, **options}))


@pytest.mark.parametrize("item_cache", ["device", "host"])
def test_a_replica_keeps_the_item_cache_where_the_configuration_says(
    store: Path, item_cache: ItemCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(store / "v1")
    config = ServeConfig(snapshots=store, shards=2, device="cpu", item_cache=item_cache)
    shard, *_ = describe_applications(config, catalog, Layout.spread("v1", catalog.partitions, 2))
    args = ShardArgs.model_validate(shard.args)
    opened: list[Placement] = []

    def note(files: SnapshotFiles, *given: Any, **options: Any) -> LoadedPartitions:
        opened.append(given[-1])
        return load_partitions(files, *given, **options)

    monkeypatch.setattr("silverray.shard.engine.engine.load_partitions", note)
    replica = ShardReplica.__new__(ShardReplica)
    asyncio.run(replica.__init__(args))  # type: ignore[misc]
    assert opened == [Placement(torch.device("cpu"), item_cache)]
    told = replica.describe()
    assert told["items"] == catalog.items_in(args.partitions)
    assert told["memory"]["device"] == {}
    assert told["memory"]["host"]["vectors"] == 64 * told["items"]


def test_a_shard_does_not_check_again_what_a_router_has_checked(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = ShardSearcher.open(store / "v1", threads=1)
    vectors = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    raw = SearchRequest(vectors=vectors, filter="year >= 1990", k=5)
    query = Validator(searcher.catalog).validate(raw)
    assert isinstance(query, Query)
    (expected,) = asyncio.run(searcher.search([raw]))

    def refuse(*given: Any) -> SearchRequest:
        raise AssertionError("checked twice")

    monkeypatch.setattr(Validator, "validate", refuse)
    (reply,) = asyncio.run(searcher.answer(QueryBatch.of([query]))).rows()
    assert isinstance(reply, SearchReply)
    assert isinstance(expected, SearchReply)
    assert reply.keys.tolist() == expected.keys.tolist()
    assert reply.scores.tolist() == expected.scores.tolist()


def test_a_shard_refuses_what_it_has_not_reached_and_answers_the_rest(store: Path) -> None:
    searcher = ShardSearcher.open(store / "v1", threads=1)
    vectors = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    requests = [SearchRequest(vectors=vectors, k=3, min_seq=seq) for seq in (0, 1, 0)]
    outcomes = asyncio.run(searcher.search(requests))
    assert [type(outcome) for outcome in outcomes] == [SearchReply, SequenceNotReached, SearchReply]
    assert str(outcomes[1]) == "min_seq: the shard is at 0, not at 1 yet"
