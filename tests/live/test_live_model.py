"""Random writes, searches, compactions, restarts and changes of the number of shards, against a dictionary."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from catalogs import make_items, make_requests
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.index import packing
from silverray.shard.live import updates
from silverray.shard.live.writes import Delete, Entry, Patch, Upsert, Write
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

from .world import FILTERS, World, random_fields, random_patch, random_vector

ITEMS, CLUSTERS, PARTITIONS = 300, 8, 8
IDS = st.lists(st.integers(0, 1_300), min_size=1, max_size=20)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So little room that clusters fill up and compaction begins by itself."""
    monkeypatch.setattr(packing, "LEAST_FREE", 24)
    monkeypatch.setattr(updates, "SLICE", 8)
    monkeypatch.setattr(updates, "FEW", 30)
    yield


class LiveCatalog(RuleBasedStateMachine):
    """One catalog, its log, and the shards that follow it."""

    catalog: Catalog
    world_of_catalog: Callable[[], World]

    @initialize()
    def open(self) -> None:
        self.world = type(self).world_of_catalog()
        self.log: list[Entry] = []
        self.exact = ExactSearch.open(self.catalog.path, slack=0.1)
        self.shards: list[ShardSearcher] = []
        self.serve(1)

    def teardown(self) -> None:
        for searcher in [*self.shards, self.exact]:
            assert searcher.updates is not None
            searcher.updates.close()

    @rule(ids=IDS, seed=SEEDS)
    def upsert(self, ids: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.write([Upsert(id_, random_vector(rng), random_fields(rng)) for id_ in ids])

    @rule(ids=IDS)
    def delete(self, ids: list[int]) -> None:
        self.write([Delete(id_) for id_ in ids])

    @rule(ids=IDS, seed=SEEDS)
    def patch(self, ids: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.write([Patch(id_, random_patch(rng)) for id_ in ids])

    @rule(ids=IDS, seed=SEEDS)
    def do_everything_to_a_few(self, ids: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        kinds: list[Callable[[int], Write]] = [
            Delete,
            lambda id_: Patch(id_, random_patch(rng)),
            lambda id_: Upsert(id_, random_vector(rng), random_fields(rng)),
        ]
        self.write([kinds[rng.integers(3)](id_) for id_ in ids[:3] * 4])

    @rule()
    def write_again(self) -> None:
        for searcher in self.shards:
            searcher.apply(self.log[-15:])

    @rule(wait=st.booleans())
    def compact(self, wait: bool) -> None:
        for searcher in self.shards:
            assert searcher.updates is not None
            done = searcher.updates.compact()
            if wait:
                done.result()

    @rule(count=st.sampled_from([1, 2, 4]))
    def serve(self, count: int) -> None:
        """Load the snapshot into so many shards, and let them catch up."""
        for searcher in self.shards:
            assert searcher.updates is not None
            searcher.updates.close()
        parts = [range(shard, PARTITIONS, count) for shard in range(count)]
        self.shards = [ShardSearcher.open(self.catalog.path, part, slack=0.1) for part in parts]
        for searcher in self.shards:
            searcher.apply(self.log)

    def write(self, writes: list[Write]) -> None:
        first = self.log[-1].seq + 1 if self.log else 1
        entries = [Entry(first + number, write) for number, write in enumerate(writes)]
        self.log += entries
        for write in writes:
            self.world.write(write)
        for searcher in [*self.shards, self.exact]:
            searcher.apply(entries)

    @invariant()
    def answers_are_those_of_the_dictionary(self) -> None:
        if not hasattr(self, "world"):
            return
        texts = list(FILTERS)
        (asked,) = make_requests(1, seed=len(self.log))
        requests = [
            replace(asked, filter=texts[(len(self.log) + number) % len(texts)], k=k, n_probe=CLUSTERS, refine="all",
                    fields=("title", "tags", "released"))
            for number, k in enumerate((10_000, 10_000, 7))
        ]  # fmt: skip
        truth = ask(self.exact, requests)
        replies = [ask(searcher, requests) for searcher in self.shards]
        for number, request in enumerate(requests):
            best = merged([part[number] for part in replies], request.k)
            assert best == merged([truth[number]], request.k)
            self.check(request, best)
        assert sum(searcher.engine.items for searcher in self.shards) == len(self.world.fields)
        last = self.log[-1].seq if self.log else 0
        assert {reply.seq for part in [*replies, truth] for reply in part} == {last}

    @invariant()
    def given_items_are_found_in_one_shard_each(self) -> None:
        if not hasattr(self, "world"):
            return
        asked = np.array(sorted({*self.world.fields, *(entry.write.id for entry in self.log)}), dtype=np.int64)
        found = np.stack([searcher.engine.payload.slots(asked) >= 0 for searcher in self.shards])
        assert found.sum(axis=0).tolist() == [int(key in self.world.fields) for key in asked.tolist()]

    def check(self, request: SearchRequest, best: list[tuple[Any, ...]]) -> None:
        assert request.vectors is not None
        matching = self.world.matching(request.filter)
        assert len(best) == min(request.k, len(matching))
        assert {key for _, key, *_ in best} <= matching
        for score, key, title, tags, released in best:
            fields = self.world.fields[key]
            assert score == pytest.approx(float(self.world.vectors[key] @ request.vectors[0]), rel=1e-5, abs=1e-4)
            day = fields["released"]
            assert (title, tags, released) == (fields["title"], fields["tags"], day and day.isoformat())
        everything = sorted((self.world.vectors[key] @ request.vectors[0] for key in matching), reverse=True)
        np.testing.assert_allclose([score for score, *_ in best], everything[: len(best)], rtol=1e-5, atol=1e-4)


def ask(searcher: ShardSearcher, requests: list[SearchRequest]) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return replies  # type: ignore[return-value]


def merged(replies: list[SearchReply], k: int) -> list[tuple[Any, ...]]:
    """Score, key and fields of the k best items."""
    rows = [
        (score, key, *fields)
        for reply in replies
        for score, key, *fields in zip(reply.scores.tolist(), reply.keys.tolist(), *reply.fields.values(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-row[0], row[1]))[:k]


@pytest.mark.usefixtures("small_bounds")
def test_a_live_catalog_is_the_dictionary_that_was_written(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(ITEMS, clusters=CLUSTERS)
    table, vectors = make_items(ITEMS)
    rows = {row.pop("id"): row for row in table.to_pylist()}

    class Machine(LiveCatalog):
        catalog = made
        world_of_catalog = staticmethod(lambda: World(rows, vectors))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15,
            phases=[Phase.generate],
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
