"""Plans of embedding tables, and batches split by them."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tables import TABLE_OF, TABLES, make_batch

from silverray.cluster.tables.plan import RankBudget, TablePlan, plan_tables
from silverray.cluster.tables.rank import load_shards
from silverray.cluster.tables.slices import split_requests
from silverray.shard.api import SnapshotError
from silverray.shard.towers.table import Table
from silverray.shard.towers.table_files import save_tables
from silverray.shard.towers.tables import TablesTooLarge, embedding_tables, keyed_jagged

WHOLE = sum(table.bytes for table in TABLES)


def kinds(plan: TablePlan) -> dict[str, str]:
    return {shard.table: shard.sharding for shard in plan.shards}


@pytest.mark.parametrize(
    ("ranks", "host_bytes", "expected"),
    [
        (1, 10_000_000, {"users": "table_wise", "films": "table_wise", "tags": "table_wise"}),
        (2, 4_500_000, {"users": "table_wise", "films": "table_wise", "tags": "table_wise"}),
        (2, 3_200_000, {"users": "row_wise", "films": "column_wise", "tags": "table_wise"}),
        (4, 1_800_000, {"users": "row_wise", "films": "column_wise", "tags": "table_wise"}),
        (4, 1_500_000, {"users": "row_wise", "films": "column_wise", "tags": "column_wise"}),
    ],
)
def test_tables_are_cut_no_more_than_the_budget_asks_for(ranks: int, host_bytes: int, expected: dict[str, str]) -> None:
    plan = plan_tables(TABLES, ranks, RankBudget(host_bytes))
    assert kinds(plan) == {**expected, "age": "table_wise"}
    assert sum(plan.rank_bytes) == WHOLE == 5_312_112
    assert max(plan.rank_bytes) <= host_bytes
    assert {shard.kernel for shard in plan.shards} == {"fused"}


@pytest.mark.parametrize(("ranks", "host_bytes"), [(2, 3_200_000), (4, 1_500_000)])
def test_every_value_of_a_table_lies_on_one_rank(ranks: int, host_bytes: int) -> None:
    held = {table.name: np.zeros((table.rows, table.dimension), dtype=int) for table in TABLES}
    by_rank: dict[int, int] = defaultdict(int)
    for shard in plan_tables(TABLES, ranks, RankBudget(host_bytes)).shards:
        part = held[shard.table][slice(*shard.rows), slice(*shard.columns)]
        part += 1
        assert shard.bytes == 4 * part.size
        by_rank[shard.rank] += shard.bytes
    assert all((counts == 1).all() for counts in held.values())
    assert sorted(by_rank) == list(range(ranks))


def test_a_gpu_keeps_what_it_has_no_room_for_on_its_host() -> None:
    plan = plan_tables(TABLES, 2, RankBudget(host_bytes=20_000_000, hbm_bytes=2_500_000), "cuda")
    kernels = {shard.table: shard.kernel for shard in plan.shards}
    assert plan.device == "cuda"
    assert kernels["users"] == "fused_uvm_caching"
    on_gpus = [shard for shard in plan.shards if shard.kernel == "fused"]
    assert on_gpus
    for rank in range(2):
        assert sum(shard.bytes for shard in on_gpus if shard.rank == rank) <= 2_500_000


@pytest.mark.parametrize(
    ("tables", "ranks", "host_bytes", "message"),
    [
        (
            TABLES,
            2,
            2_000_000,
            "tables: 4 tables take 5.1 MiB in all and do not fit 2 ranks with 1.9 MiB of host memory",
        ),
        (
            TABLES,
            4,
            900_000,
            "tables: table 'users' takes 3.7 MiB, 937.5 KiB on each of 4 ranks; expected less than the",
        ),
        (
            [Table("t", 10**10, 128, ("f",), "sum")],
            8,
            2**33,
            "tables: table 't' takes 4768.4 GiB, 596.0 GiB on each of 8 ranks; expected",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_the_numbers(
    tables: list[Table], ranks: int, host_bytes: int, message: str
) -> None:
    with pytest.raises(TablesTooLarge) as caught:
        plan_tables(tables, ranks, RankBudget(host_bytes))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("use more ranks or larger budgets")


def test_a_plan_describes_itself() -> None:
    document = plan_tables(TABLES[2:], 2, RankBudget(1_000_000)).describe()
    assert document["device"] == "cpu"
    assert sorted(document["rank_bytes"]) == [112, 192_000]
    assert document["shards"][0] == {
        "table": "tags",
        "rank": document["rank_bytes"].index(192_000),
        "sharding": "table_wise",
        "kernel": "fused",
        "rows": (0, 3_000),
        "columns": (0, 16),
        "bytes": 192_000,
    }


@pytest.mark.parametrize("requests", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_slices_joined_are_the_batch(requests: int, ranks: int) -> None:
    batch = make_batch(requests, seed=requests)
    slices = split_requests(TABLES, batch, ranks)
    assert len(slices) == ranks
    assert {one.lengths.shape for one in slices} == {(6, -(-requests // ranks))}
    parts = [keyed_jagged(one.columns()) for one in slices]
    for name in TABLE_OF:
        assert torch.equal(torch.cat([part[name].values() for part in parts]), batch[name].values())
        lengths = torch.cat([part[name].lengths() for part in parts])
        assert torch.equal(lengths[:requests], batch[name].lengths())
        assert not lengths[requests:].any()


def test_other_features_stay_behind() -> None:
    (one,) = split_requests(TABLES[3:], make_batch(5, seed=0), 1)
    assert one.keys == ("age",)


def test_a_rank_looks_at_its_files_before_it_makes_room(tmp_path: Path) -> None:
    save_tables(tmp_path, TABLES, embedding_tables(TABLES))
    file = tmp_path / f"{TABLES[0].name}.safetensors"
    file.write_bytes(file.read_bytes()[:-4])  # on this node alone
    plan = plan_tables(TABLES, 1, RankBudget(10_000_000, 0), "cpu")
    with pytest.raises(SnapshotError, match=TABLES[0].name):
        load_shards(TABLES, plan, tmp_path, torch.device("cpu"))
