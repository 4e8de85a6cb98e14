"""`silverray publish --from-live`: a log folded into a new version, while the log goes on."""

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from processes import PATIENCE_S
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.cluster.log.claim import claim_store
from silverray.cluster.log.follower import LogFollower
from silverray.cluster.log.store import LogReader, LogStore
from silverray.cluster.log.writer import LogWriter
from silverray.router.errors import LogUnavailable
from silverray.router.writes.log import Reader
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.live.checks import check
from silverray.shard.live.writes import Delete, Patch, Upsert, Write, encode
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles, least_seq
from silverray.shard.snapshot.manifest import CLAIM

FILTERS = [None, "year = 3000", 'country = "Atlantis" or country is null', 'not genres any ("Drama")']


class Shop:
    """A store with one version, the files that it was published from, and a log."""

    def __init__(self, folder: Path, films: Any) -> None:
        self.folder, self.store, self.log = folder, folder / "store", folder / "updates.db"
        self.films = films
        pq.write_table(films.table, folder / "items.parquet")
        np.save(folder / "vectors.npy", films.vectors)
        (folder / "schema.yaml").write_text(films.schema)
        schema = Schema.parse(films.schema)
        publish(films.table, schema, self.store, vectors=films.vectors, partitions=4, clusters=16, version="v1")
        self.catalog = Catalog.open(self.store / "v1")
        log = LogStore(self.log)
        claim_store(self.store, {"identity": log.state().identity, "path": str(self.log), "node": "10.0.0.1"})
        log.close()

    def publish(self, *options: object, items: str = "items.parquet") -> tuple[int, str, str]:
        files = [self.folder / items, "--schema", self.folder / "schema.yaml", "--out", self.store]
        files += ["--vectors", self.folder / "vectors.npy", "--partitions", 4, "--clusters", 16, "--json"]
        result = CliRunner().invoke(app, ["publish", *map(str, [*files, *options])])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    def published(self, *options: object) -> dict[str, Any]:
        code, out, err = self.publish(*options)
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    def mistake(self, *options: object) -> str:
        code, _, err = self.publish(*options)
        assert code != 0 and err.count("\n") == 1, err
        return err

    def manifest(self, version: str) -> dict[str, Any]:
        return SnapshotFiles.open(self.store / version).manifest

    def writes(self, count: int, seed: int) -> list[Write]:
        """Writes as a router logs them: new, replaced, patched and deleted items."""
        rng = np.random.default_rng(seed)
        ids = self.films.table.column("film").to_pylist()
        made: list[Write] = []
        for _ in range(count):
            id_ = int(rng.choice(ids)) if rng.random() < 0.7 else int(rng.integers(100_000, 100_050))
            fields = {"year": 3000, "genres": rng.choice(["Drama", "New"], 2).tolist(), "country": "Atlantis"}
            vector = rng.standard_normal(16).astype(np.float32)
            kinds = Upsert(id_, vector, fields), Delete(id_), Patch(id_, {"year": 3000, "country": None})
            made.append(kinds[rng.integers(3)])
        checked = check(made, self.catalog)
        return [write for write in checked if isinstance(write, (Upsert, Delete, Patch))]

    def append(self, *bodies: Sequence[Write]) -> int:
        log = LogStore(self.log)
        try:
            return log.append([(encode(body), len(body)) for body in bodies])[-1]
        finally:
            log.close()


@pytest.fixture
def shop(tmp_path: Path, films: Any) -> Shop:
    return Shop(tmp_path, films)


async def followed(shop: Shop, versions: Sequence[str], log: LogWriter) -> list[ShardSearcher]:
    """Shards of versions that have followed the log to its end."""
    searchers = []
    for version in versions:
        searcher = ShardSearcher.open(shop.store / version, slack=0.1)
        follower = LogFollower(log, Reader(version, "a"), searcher.apply, searcher.applied)
        follower.start()
        assert await follower.settled()
        await follower.stop()
        searchers.append(searcher)
    return searchers


async def answers(searcher: ShardSearcher) -> list[Any]:
    rng = np.random.default_rng(11)
    requests = [
        SearchRequest(
            vectors=rng.standard_normal((1, 16)).astype(np.float32),
            filter=filter_,
            k=k,
            n_probe=16,
            refine="all",
            fields=("year", "country", "genres"),
        )
        for filter_ in FILTERS
        for k in (10, 10_000)
    ]
    replies = await searcher.search(requests)
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return [(reply.seq, reply.keys.tolist(), reply.scores.tobytes(), reply.fields) for reply in replies]  # type: ignore[union-attr]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_old_and_new_version_answer_alike_while_writes_go_on(shop: Shop) -> None:
    log = LogWriter(shop.log)
    for seed in range(10):
        body = shop.writes(50, seed)
        await log.append(encode(body), len(body), 10)
    stopping = asyncio.Event()

    async def write_on() -> int:
        seed = 100
        while not stopping.is_set():
            body = shop.writes(20, seed := seed + 1)
            await log.append(encode(body), len(body), 10)
            await asyncio.sleep(0.01)
        return seed

    writing = asyncio.create_task(write_on())
    await asyncio.sleep(0.05)
    document = await asyncio.to_thread(shop.published, "--from-live", "--version", "v2")
    stopping.set()
    await writing
    state = await log.describe()
    assert (state["epoch"], state["fenced"]) == (2, False)  # as it was before
    assert 500 <= document["seq"] == shop.manifest("v2")["seq"] < state["last"]
    assert shop.manifest("v2")["vector_space"] == "v1"
    assert document["folded"]["inserted"] == document["items"] - 3_000 + document["folded"]["deleted"] > 0
    old, new = await followed(shop, ["v1", "v2"], log)
    assert (old.applied, new.applied) == (state["last"], state["last"])
    assert await answers(old) == await answers(new)
    for one in (old, new):
        assert one.updates is not None
        one.updates.close()
    assert new.updates is not None
    done = new.updates.status().outcome
    assert (done.other_space, done.fields_only, done.refused) == (0, 0, 0)
    await log.close()


def test_the_same_items_are_folded_again_from_where_they_were(shop: Shop) -> None:
    """The newest version includes more than its items did: to begin behind it would lose what lies between."""
    shop.append(shop.writes(60, 1), shop.writes(40, 2))
    assert shop.published("--from-live", "--version", "v2")["seq"] == 100
    assert shop.manifest("v2")["build"]["items_seq"] == 0
    shop.append(shop.writes(30, 3))
    third = shop.published("--from-live", "--version", "v3")
    once = shop.published("--from-live", "--as-of", 0, "--version", "v4")
    assert third["seq"] == once["seq"] == 130
    assert third["folded"] == once["folded"]
    assert shop.published("--from-live", "--as-of", 130, "--version", "v5")["folded"] | {"refusal": 0} == dict.fromkeys(
        [*once["folded"]], 0
    )
    assert least_seq(shop.store) == 0


def test_the_log_is_kept_for_the_versions_that_are_left(shop: Shop) -> None:
    last = shop.append(shop.writes(60, 1), shop.writes(40, 2))
    shop.published("--as-of", 60, "--version", "v2")
    shop.published("--from-live", "--version", "v3")
    assert [shop.manifest(version)["seq"] for version in ("v2", "v3")] == [60, 100]
    (shop.store / "v1").rename(shop.folder / "v1")
    log = LogStore(shop.log)
    log.trim(least_seq(shop.store) + 1)
    assert log.read(60, 1_000).last == last
    log.close()
    assert shop.published("--from-live", "--version", "v4")["seq"] == last
    assert "updates.db: expected a number from 60 to 100, got 59" in shop.mistake("--from-live", "--as-of", 59)


def test_as_of_says_what_items_include_and_keeps_the_vector_space(shop: Shop) -> None:
    shop.published("--as-of", 7, "--version", "v2")
    assert shop.manifest("v2")["seq"] == 7 and shop.manifest("v2")["vector_space"] == "v1"
    shop.published("--as-of", 7, "--space", "new", "--version", "v3")
    assert shop.manifest("v3")["vector_space"] == "new"
    shop.published("--version", "v4")
    assert shop.manifest("v4")["seq"] == 0 and shop.manifest("v4")["vector_space"] == "v4"


def test_vectors_of_another_space_are_not_folded_in(shop: Shop) -> None:
    shop.append([write for write in shop.writes(60, 1) if isinstance(write, Upsert)])
    folded = shop.published("--from-live", "--space", "new", "--version", "v2")["folded"]
    assert folded["inserted"] == folded["replaced"] == 0
    assert folded["fields_only"] > 0 and folded["other_space"] > 0


def test_mistakes_are_named(shop: Shop, tmp_path: Path) -> None:
    shop.append(shop.writes(10, 1))
    assert "updates.db: expected a number from 0 to 10, got 11" in shop.mistake("--from-live", "--as-of", 11)
    assert "--log: expected with --from-live only" in shop.mistake("--log", shop.log)
    missing = f"{shop.folder}/gone.db: not found; the log is on 10.0.0.1, or where --log says"
    assert missing in shop.mistake("--from-live", "--log", shop.folder / "gone.db")
    other = shop.folder / "other.db"
    LogStore(other).close()
    assert "other.db: is another log than the one" in shop.mistake("--from-live", "--log", other)
    other.write_bytes(b"no database" * 100)
    assert "other.db: file is not a database" in shop.mistake("--from-live", "--log", other)
    moved = shop.log.rename(shop.folder / "moved.db")
    assert "updates.db: not found" in shop.mistake("--from-live")
    assert shop.published("--from-live", "--log", moved, "--version", "v2")["seq"] == 10
    (shop.store / CLAIM).unlink()
    assert f"{CLAIM}: not found; {shop.store} was never served with a log" in shop.mistake("--from-live")


def test_a_record_that_cannot_be_read_is_gone_round_by_newer_items(shop: Shop) -> None:
    shop.append(shop.writes(10, 1))
    log = LogStore(shop.log)
    log.append([(b"\x92\x09\x90", 5)])
    log.close()
    shop.append(shop.writes(10, 2))
    assert "writes 11 to 15 cannot be read: writes: expected format 1, got [9, []]" in shop.mistake("--from-live")
    document = shop.published("--from-live", "--as-of", 15, "--version", "v2")
    assert document["seq"] == 25


def test_a_reader_neither_fences_nor_hinders_the_writer(shop: Shop) -> None:
    writer = LogStore(shop.log)
    reader = LogReader(shop.log)
    writer.append([(b"a", 1)])
    assert reader.read(0, 9).last == 1 and reader.state().epoch == writer.epoch
    writer.append([(b"b", 1)])
    writer.close()
    assert [record.body for record in reader.read(0, 9).records] == [b"a", b"b"]
    reader.close()
    after = LogReader(shop.log)  # nobody has the file open
    assert after.state().last == 2
    after.close()
    for path in (shop.folder, shop.folder / "none.db"):
        with pytest.raises(LogUnavailable, match=str(path)):
            LogReader(path)
    (shop.folder / "empty.db").touch()
    with pytest.raises(LogUnavailable, match="no such table: state"):
        LogReader(shop.folder / "empty.db")
    assert not (shop.folder / "none.db").exists()


def test_threads_may_share_nothing_but_the_file(shop: Shop) -> None:
    """Readers in other threads see only whole bodies, in order."""
    writer, seen = LogStore(shop.log), list[int]()

    def read() -> None:
        reader = LogReader(shop.log)
        while len(seen) < 50:
            seen.extend(record.seq for record in reader.read(seen[-1] if seen else 0, 7).records)
        reader.close()

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(50):
        writer.append([(b"x" * 10_000, 3)])
    thread.join(timeout=PATIENCE_S)
    assert seen == list(range(3, 151, 3))
    writer.close()
