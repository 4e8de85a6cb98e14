import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silverray.cluster.applications import describe_applications
from silverray.cluster.config import ServeConfig
from silverray.cluster.layout import Layout
from silverray.shard.admission import Admission
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.index.catalog import Catalog
from silverray.shard.searcher import ShardSearcher


def test_no_application_logs_every_request(store: Path) -> None:
    catalog = Catalog.open(store / "v1")
    config = ServeConfig(snapshots=store, shards=2)
    applications = describe_applications(config, catalog, Layout.spread("v1", catalog.partitions, 2))
    levels = [one.logging_config.log_level for app in applications for one in app.deployments]
    assert levels == ["WARNING"] * 3


def test_a_shard_does_not_admit_again_what_a_router_has_admitted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = ShardSearcher.open(store / "v1", threads=1)
    vectors = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    raw = SearchRequest(vectors=vectors, filter="year >= 1990", k=5)
    admitted = Admission(searcher.catalog).admit(raw)
    (expected,) = asyncio.run(searcher.search([raw]))

    def refuse(*given: Any) -> SearchRequest:
        raise AssertionError("admitted twice")

    monkeypatch.setattr(Admission, "admit", refuse)
    (reply,) = asyncio.run(searcher.search([admitted]))
    assert isinstance(reply, SearchReply)
    assert isinstance(expected, SearchReply)
    assert reply.keys.tolist() == expected.keys.tolist()
    assert reply.scores.tolist() == expected.scores.tolist()
