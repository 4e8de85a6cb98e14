"""The encoder's deployment without a cluster: tables in its process, whole or in int8."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from saved_tower import save_tower

from silverray.cluster.config import EncoderConfig, ServeConfig, TableGroupConfig
from silverray.cluster.serving.applications import belongs_to, describe_applications
from silverray.cluster.serving.encoders import EncoderArgs, EncoderReplica
from silverray.cluster.serving.layout import Layout
from silverray.cluster.tables.dispatcher import GroupTables
from silverray.shard.api import InvalidRequest, SearchError, SnapshotError
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.towers.encoder import TowerEncoder

KEYS = np.arange(3_000, dtype=np.int64) * 3
USERS: list[dict[str, Any]] = [
    {"history": [3, 6, 9_000_000], "age": 30, "country": "US", "user": 12},
    {"history": [], "country": "nowhere"},
    {},
    {"history": list(range(0, 9_000, 3)), "age": 3, "user": 2**40},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tower(tmp_path_factory.mktemp("tower") / "model", KEYS, 16)


def replica(model: Path, *, int8: bool = False) -> EncoderReplica:
    args = EncoderArgs(model=model, version="v1", int8=int8, group=None, rank_cpus=0.1)
    made = EncoderReplica.__new__(EncoderReplica)
    asyncio.run(made.__init__(args))  # type: ignore[misc]
    return made


def encode(made: EncoderReplica, users: list[dict[str, Any]], version: str = "v1") -> Any:
    return asyncio.run(made.encode(version, users))


def local(model: Path, users: list[dict[str, Any]]) -> NDArray[np.float32]:
    encoder = TowerEncoder.load(model)
    vectors = asyncio.run(encoder.encode(users))
    encoder.close()
    return vectors


def test_it_encodes_as_the_towers_own_encoder_does(model: Path) -> None:
    made = replica(model)
    np.testing.assert_array_equal(encode(made, USERS), local(model, USERS))
    tables = made.describe()["tables"]
    assert tables["ready"] is True
    assert tables["rank_bytes"] == [3_001 * 64 + 4_001 * 128 + 5 * 16 + 4 * 16]
    assert tables["shards"][1] == {
        "table": "users",
        "rank": None,
        "sharding": "whole",
        "kernel": "fp32",
        "rows": (0, 4_001),
        "columns": (0, 32),
        "bytes": 4_001 * 128,
    }


def test_int8_tables_take_a_quarter_and_hardly_turn_a_vector(model: Path) -> None:
    made = replica(model, int8=True)
    rng = np.random.default_rng(0)
    users = [
        {"history": rng.choice(KEYS, 10).tolist(), "age": int(rng.integers(80)), "country": "FR", "user": n}
        for n in range(500)
    ]
    assert 0 < np.abs(encode(made, users) - local(model, users)).max() < 0.002
    tables = made.describe()["tables"]
    assert tables["rank_bytes"] == [3_001 * 20 + 4_001 * 36 + 5 * 8 + 4 * 8]
    assert {shard["kernel"] for shard in tables["shards"]} == {"int8"}


def test_errors_of_a_batch_are_answers(model: Path) -> None:
    made = replica(model)
    wrong = encode(made, [{}, {"age": "old"}])
    assert isinstance(wrong, InvalidRequest) and wrong.where == "user[1].age"
    other = encode(made, USERS, version="v2")
    assert isinstance(other, SearchError) and str(other) == "asked for version 'v2', this encoder is of 'v1'"


def test_a_snapshot_with_a_tower_gets_an_application_for_it(
    tmp_path: Path, store: Path, films: Any, model: Path
) -> None:
    schema = Schema.parse(films.schema)
    publish(films.table, schema, tmp_path, vectors=films.vectors, model=model, partitions=4, clusters=4, version="v2")
    group = TableGroupConfig(ranks=2, host_bytes=400_000)
    config = ServeConfig(snapshots=tmp_path, name="films", encoder=EncoderConfig(replicas=3, group=group))
    catalog = Catalog.open(tmp_path / "v2")
    shard, encoder, router = describe_applications(config, catalog, Layout.spread("v2", 4, 1))
    assert [app.name for app in (shard, encoder, router)] == ["films-shard-0", "films-encoder", "films-router"]
    assert router.args["encoder"] == "films-encoder" and encoder.route_prefix is None
    assert encoder.deployments[0].num_replicas == 3
    args = EncoderArgs.model_validate(encoder.args)
    assert args == EncoderArgs(model=tmp_path / "v2/model", version="v2", int8=False, group=group, rank_cpus=0.1)
    assert belongs_to("films-encoder", "films") and not belongs_to("films-encoder-2", "films")
    without = Catalog.open(store / "v1")
    assert describe_applications(config, without, Layout.spread("v1", 16, 1))[-1].args["encoder"] is None


def test_ranks_make_no_room_for_tables_that_the_files_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def form(*_: object) -> None:
        raise AssertionError("ranks were formed")

    monkeypatch.setattr(GroupTables, "form", form)
    model = save_tower(tmp_path / "model", KEYS, 16)
    file = model / "tables" / "tables.json"
    tables = json.loads(file.read_bytes())
    tables[1]["rows"] = 10**12
    file.write_text(json.dumps(tables))
    group = TableGroupConfig(ranks=2, host_bytes=10**15)
    args = EncoderArgs(model=model, version="v1", int8=False, group=group, rank_cpus=0.1)
    with pytest.raises(SnapshotError, match=r"users\.safetensors: expected \[1000000000000, 32, 'F32'\], got"):
        asyncio.run(EncoderReplica.__new__(EncoderReplica).__init__(args))  # type: ignore[misc]
