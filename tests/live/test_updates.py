"""Log entries in a shard that is searched: order, visibility, refusals and compaction meanwhile."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from catalogs import make_items, make_requests
from processes import PATIENCE_S

from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.engine.loaded import LoadedIndex
from silverray.shard.index import planner
from silverray.shard.live import updates
from silverray.shard.live.compaction import compact
from silverray.shard.live.writes import Delete, Entry, Patch, Upsert, Write
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

from .world import random_fields, random_vector


@pytest.fixture
def live(catalog: Catalog) -> Iterator[ShardSearcher]:
    searcher = ShardSearcher.open(catalog.path, slack=0.1)
    assert searcher.updates is not None
    yield searcher
    searcher.updates.close()


def entries(writes: Sequence[Write], first: int = 1) -> list[Entry]:
    return [Entry(first + place, write) for place, write in enumerate(writes)]


def ask(searcher: ShardSearcher, *requests: SearchRequest) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return replies  # type: ignore[return-value]


def query(**options: Any) -> SearchRequest:
    return replace(make_requests(1, seed=1)[0], **{"filter": None, "k": 10, **options})


def outcome_of(searcher: ShardSearcher) -> dict[str, int]:
    assert searcher.updates is not None
    return {name: count for name, count in searcher.updates.status().outcome._asdict().items() if count}


def test_a_shard_without_slack_takes_no_updates(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path, (0,))
    with pytest.raises(ValueError, match="slack: expected free slots for each item, got None"):
        searcher.apply(entries([Delete(1)]))


def test_slack_changes_no_answer(catalog: Catalog, live: ShardSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = ShardSearcher.open(catalog.path)
    for survivors in (planner.SURVIVORS, 50):
        monkeypatch.setattr(planner, "SURVIVORS", survivors)
        requests = make_requests(60, seed=31, fields=("title", "released", "tags"))
        for mine, its in zip(ask(live, *requests), ask(packed, *requests), strict=True):
            assert mine.keys.tolist() == its.keys.tolist()
            np.testing.assert_array_equal(mine.scores, its.scores)
            assert mine.fields == its.fields


def test_replies_say_what_they_include_and_an_entry_counts_once(live: ShardSearcher) -> None:
    rng = np.random.default_rng(0)
    (before,) = ask(live, query())
    assert (before.seq, live.applied) == (0, 0)
    log = entries(
        [Upsert(20_000, random_vector(rng), random_fields(rng)), Delete(20_001), Patch(20_000, {"rank": 7})], 5
    )
    live.apply(log)
    live.apply(log)
    live.apply(log[1:] + entries([Delete(20_000)], 8))
    assert outcome_of(live) == {"inserted": 1, "unknown": 1, "deleted": 1}
    (after,) = ask(live, query())
    assert after.seq == live.applied == 8
    assert after.keys.tolist() == before.keys.tolist()


def test_a_shard_takes_only_what_belongs_to_its_partitions(catalog: Catalog) -> None:
    rng = np.random.default_rng(1)
    log = entries([Upsert(30_000 + number, random_vector(rng), random_fields(rng)) for number in range(100)])
    shards = [ShardSearcher.open(catalog.path, range(part, 8, 2), slack=0.1) for part in range(2)]
    for searcher in shards:
        searcher.apply(log)
    assert sum(outcome_of(searcher)["inserted"] for searcher in shards) == 100
    found = [set(ask(searcher, query(k=10_000))[0].keys.tolist()) for searcher in shards]
    assert not found[0] & found[1]
    assert {30_000 + number for number in range(100)} <= found[0] | found[1]
    assert [searcher.applied for searcher in shards] == [100, 100]


def test_a_write_that_the_schema_does_not_allow_is_refused_alone(
    live: ShardSearcher, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(2)
    fields, vector = random_fields(rng), random_vector(rng)
    bad: list[Write] = [
        Upsert(40_000, vector, {**fields, "rank": "high"}),
        Upsert(40_001, vector, {**fields, "rank": None}),
        Upsert(40_002, vector[:3], fields),
        Patch(40_010, {"live_show": 3}),
    ]
    with caplog.at_level(logging.WARNING):
        live.apply(entries([Upsert(40_010, vector, fields), *bad, Upsert(40_011, vector, fields)]))
    assert outcome_of(live) == {"inserted": 2, "refused": 4}
    assert [record.args[0] for record in caplog.records] == [40_000, 40_001, 40_002, 40_010]  # type: ignore[index]
    assert live.updates is not None
    assert live.updates.status().refusal == "item 40010: fields.live_show: expected true or false, got integer 3"
    assert live.applied == 6


def test_values_that_no_router_lets_through_stop_nothing(live: ShardSearcher) -> None:
    rng = np.random.default_rng(12)
    fields, vector = random_fields(rng), random_vector(rng)
    odd: list[Write] = [
        Upsert(41_000, vector, {**fields, "rank": 2**63}),
        Upsert(41_001, vector, {**fields, "tags": ["jazz", 3]}),
        Patch(41_010, {"tags": [None]}),
        Patch(41_010, {"year": -(2**64)}),
    ]
    live.apply(entries([Upsert(41_010, vector, fields), *odd, Upsert(41_011, vector, fields)]))
    assert outcome_of(live) == {"inserted": 2, "refused": 4}


def test_vectors_of_another_space_change_fields_only(live: ShardSearcher, catalog: Catalog) -> None:
    rng = np.random.default_rng(3)
    vector = random_vector(rng)
    (known,) = ask(live, query(k=1))
    id_ = int(known.keys[0])
    fields = {**random_fields(rng), "title": "from elsewhere"}
    there = [Upsert(id_, np.ones(3, np.float32), fields, "another"), Upsert(50_000, vector, fields, "another")]
    live.apply(entries(there))
    (now,) = ask(live, query(k=1, fields=("title", *fields)))
    assert (now.keys.tolist(), now.scores.tolist()) == (known.keys.tolist(), known.scores.tolist())
    assert now.fields["title"] == ["from elsewhere"]
    assert outcome_of(live) == {"fields_only": 1, "other_space": 1}
    # It is the whole item: what it leaves out is missing now.
    live.apply(entries([Upsert(id_, vector, {**fields, "year": 1900, "price": 1.0}, "v1")], 3))
    kept = {name: value for name, value in fields.items() if name not in ("year", "price")}
    live.apply(entries([Upsert(id_, -vector, kept, "another")], 4))
    (found,) = ask(live, query(k=1, vectors=vector[None], filter="year is null and price is null", fields=("title",)))
    assert found.keys.tolist() == [id_] and found.scores[0] == pytest.approx(float(vector @ vector), rel=1e-5)
    assert catalog.vector_space == "v1"


def test_string_ids_and_cosine(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(400, metric="cosine", strings=True)
    searcher = ShardSearcher.open(made.path, slack=0.1)
    rng = np.random.default_rng(4)
    vector = random_vector(rng)
    vector /= np.linalg.norm(vector)
    asked = query(k=2, fields=("title",))
    (first, second) = ask(searcher, asked)[0].ids
    log = entries([Upsert("ü", vector, {**random_fields(rng), "title": "T"}), Delete(str(first))])
    searcher.apply(log)
    (best,) = ask(searcher, replace(asked, vectors=vector[None]))
    assert best.ids[0] == "ü" and best.fields["title"][0] == "T"
    assert best.scores[0] == pytest.approx(1)
    assert ask(searcher, asked)[0].ids[0] == second
    assert searcher.updates is not None
    searcher.updates.compact().result()
    assert ask(searcher, replace(asked, vectors=vector[None]))[0].ids == best.ids


def test_a_search_sees_all_of_an_item_or_nothing(live: ShardSearcher) -> None:
    """Country and year of one item always change together, and the title is that of the same moment."""
    (known,) = ask(live, query(k=1))
    id_, done = int(known.keys[0]), threading.Event()
    states = [("US", 2001), ("FR", 2002), ("new", 2003)]
    seen: set[str] = set()

    def write() -> None:
        until = time.monotonic() + PATIENCE_S
        try:
            for number in itertools.count():
                if number >= 120 and (len(seen) > 1 or time.monotonic() > until):
                    return
                country, year = states[number % 3]
                live.apply(
                    entries([Patch(id_, {"country": country, "year": year, "title": f"{country} {year}"})], number + 1)
                )
        finally:
            done.set()

    requests = [
        query(k=1, filter=f'country = "{country}" and year = {year} and rank >= 0', fields=("title",))
        for country, _ in states
        for _, year in states
    ]
    live.apply(entries([Patch(id_, {"country": "US", "year": 2001, "title": "US 2001"})], 1))
    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        replies = ask(live, *requests)
        mine = [
            (request.filter, reply.fields["title"])
            for request, reply in zip(requests, replies, strict=True)
            if id_ in reply.keys
        ]
        assert len(mine) == 1
        ((text, title),) = mine
        country, year = title[0].split()
        assert isinstance(text, str) and f'"{country}" and year = {year} ' in text
        seen.add(country)
    writer.join()
    assert len(seen) > 1


def test_writes_that_come_while_arrays_are_made_anew_are_in_them(
    live: ShardSearcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    held, copying = threading.Event(), threading.Event()

    def wait(*given: Any) -> object:
        copying.set()
        assert held.wait(PATIENCE_S)
        return compact(*given)

    monkeypatch.setattr(updates, "compact", wait)
    assert live.updates is not None
    old = live.engine.model
    future = live.updates.compact()
    assert copying.wait(PATIENCE_S)
    new = [Upsert(60_000 + number, random_vector(rng), random_fields(rng)) for number in range(300)]
    removed = [int(key) for key in ask(live, query(k=50))[0].keys]
    live.apply(entries([*new, *map(Delete, removed), Patch(60_000, {"title": "patched"})]))
    held.set()
    future.result(PATIENCE_S)
    assert live.engine.model is not old
    assert live.updates.status().compactions == 1
    reply = ask(live, query(k=10_000, fields=("title",)))[0]
    titles = dict(zip(reply.keys.tolist(), reply.fields["title"], strict=True))
    assert not titles.keys() & set(removed)
    assert {write.id for write in new} <= titles.keys()
    assert titles[60_000] == "patched"
    assert live.engine.items == len(titles) == 3_000 + 300 - 50


def test_writes_that_meet_new_arrays_without_room_wait_for_others(
    publish_items: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that is on its way while arrays are swapped finds those that were filled while they were made."""
    monkeypatch.setattr(updates, "MOST_SLOTS", 100.0)  # compactions begin when they are asked for
    made = publish_items(600, clusters=3)
    live = ShardSearcher.open(made.path, slack=0.1)
    shard, install = live.updates, live.engine.install
    assert shard is not None
    held, copying, swapping = threading.Event(), threading.Event(), threading.Event()

    def wait(*given: Any) -> object:
        copying.set()
        assert held.wait(PATIENCE_S)
        return compact(*given)

    def swap(index: LoadedIndex) -> None:
        if not swapping.is_set():
            swapping.set()
            until = time.monotonic() + 30
            while shard._writer._work_queue.empty() and time.monotonic() < until:
                time.sleep(0.001)
        install(index)

    monkeypatch.setattr(updates, "compact", wait)
    monkeypatch.setattr(live.engine, "install", swap)
    live.apply(entries([Delete(int(key)) for key in live.engine.payload.slot_keys if key >= 0]))
    future = shard.compact()
    assert copying.wait(PATIENCE_S)
    rng = np.random.default_rng(12)
    log = entries([Upsert(number, random_vector(rng), random_fields(rng)) for number in range(640)], 601)
    live.apply(log[:512])  # of the 513 slots that the new arrays have
    held.set()
    assert swapping.wait(PATIENCE_S)
    live.apply(log[512:])
    future.result(PATIENCE_S)
    assert sorted(ask(live, query(k=10_000))[0].keys.tolist()) == list(range(640))
    assert live.engine.items == 640
    shard.close()


@pytest.mark.parametrize("step", ["edit.PlaneEdit.apply", "edit.ColumnEdit.apply", "arrays.LiveArrays.apply"])
@pytest.mark.parametrize("compacting", [False, True])
def test_an_edit_that_fails_is_made_before_anything_else(
    live: ShardSearcher, monkeypatch: pytest.MonkeyPatch, step: str, compacting: bool
) -> None:
    assert live.updates is not None
    rng = np.random.default_rng(13)
    moved, gone, *_ = (int(key) for key in ask(live, query(k=2))[0].keys)
    fields = {**random_fields(rng), "title": "moved", "tags": [f"tag {number}" for number in range(10_000)]}
    vector = random_vector(rng)
    log = entries([Upsert(moved, vector, fields), Delete(gone), Upsert(60_000, -vector, random_fields(rng))])

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(f"silverray.shard.live.{step}", fail)
        for _ in range(2):
            with pytest.raises(MemoryError):
                live.apply(log)
    assert live.applied == 0
    if compacting:
        live.updates.compact().result(PATIENCE_S)
    live.apply(log)
    live.apply(entries([Patch(60_000, {"title": "patched"})], 4))
    reply = ask(live, query(k=10_000, fields=("title",)))[0]
    titles = dict(zip(reply.keys.tolist(), reply.fields["title"], strict=True))
    assert len(reply.keys) == len(titles) == live.engine.items == 3_000
    assert gone not in titles and (titles[moved], titles[60_000]) == ("moved", "patched")
    (best,) = ask(live, query(vectors=vector[None], k=10_000, filter='tags all ("tag 0", "tag 9999")'))
    assert best.keys.tolist() == [moved] and best.scores[0] == pytest.approx(vector @ vector, rel=1e-5)


def test_a_compaction_that_fails_leaves_the_old_arrays(
    live: ShardSearcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise MemoryError("no room")

    monkeypatch.setattr(updates, "compact", fail)
    monkeypatch.setattr(updates, "FEW", -1)
    monkeypatch.setattr(updates, "MOST_WRITTEN", 0.0)
    assert live.updates is not None
    rng = np.random.default_rng(11)
    for number in range(5):
        live.apply(entries([Upsert(80_000 + number, random_vector(rng), random_fields(rng))], number + 1))
        with pytest.raises(MemoryError):
            live.updates.compact().result(PATIENCE_S)
    assert len(attempts) in (5, 6)  # the first may be done before it is asked for; none by itself comes after it
    assert "the old ones stay" in caplog.text
    assert live.updates.status().compactions == 0
    found = ask(live, query(k=10_000))[0].keys.tolist()
    assert {80_000 + number for number in range(5)} <= set(found)


def test_a_shard_grows_beyond_its_slack(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(30, clusters=3)
    searcher, exact = (kind.open(made.path, slack=0.1) for kind in (ShardSearcher, ExactSearch))
    rng = np.random.default_rng(7)
    log = entries([Upsert(70_000 + number, random_vector(rng), random_fields(rng)) for number in range(2_500)])
    for one in (searcher, exact):
        one.apply(log)
        assert one.engine.items == 2_530
    assert searcher.updates is not None and searcher.updates.status().compactions >= 2
    requests = make_requests(20, seed=8)
    for mine, true in zip(ask(searcher, *requests), ask(exact, *requests), strict=True):
        assert mine.keys.tolist() == true.keys.tolist()


def test_an_empty_catalog_takes_items(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(0)
    searcher = ShardSearcher.open(made.path, slack=0.1)
    rng = np.random.default_rng(9)
    fields = random_fields(rng)
    searcher.apply(entries([Upsert(1, random_vector(rng), fields), Upsert(2, random_vector(rng), fields)]))
    assert sorted(ask(searcher, query())[0].keys.tolist()) == [1, 2]
    searcher.apply(entries([Delete(1), Delete(2)], 3))
    assert ask(searcher, query())[0].keys.tolist() == []


def test_probed_recall_holds_after_a_turnover(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SURVIVORS", 50)
    searcher, exact = (kind.open(catalog.path, slack=0.1) for kind in (ShardSearcher, ExactSearch))
    table, vectors = make_items(3_000)
    rng = np.random.default_rng(10)
    log: list[Write] = []
    for number, row in enumerate(rng.permutation(3_000)[:1_500].tolist()):
        like = int(rng.integers(3_000))
        fields = {name: table.column(name)[like].as_py() for name in table.column_names[1:]}
        vector = vectors[like] + 0.3 * rng.standard_normal(16).astype(np.float32)
        log += [Delete(table.column("id")[row].as_py()), Upsert(100_000 + number, vector, fields)]
    searcher.apply(entries(log))
    exact.apply(entries(log))
    requests = make_requests(100, seed=41, ks=(10, 50))
    hits = wanted = 0
    for mine, true in zip(ask(searcher, *requests), ask(exact, *requests), strict=True):
        assert len(mine.scores) == len(true.scores)
        if len(true.scores):
            hits += int((mine.scores >= true.scores[-1] - 1e-5).sum())
            wanted += len(true.scores)
    assert hits / wanted >= 0.95
