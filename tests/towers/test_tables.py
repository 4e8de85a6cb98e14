"""Embedding tables in one process: modules, files, int8, and what is refused."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import PATIENCE_S
from torchrec import KeyedJaggedTensor

from silverray.shard.api import SnapshotError
from silverray.shard.towers import table_files
from silverray.shard.towers.table import Table
from silverray.shard.towers.table_files import load_tables, read_part, read_tables, row_blocks, save_tables
from silverray.shard.towers.tables import LocalTables, check_ids, embedding_tables, int8_tables, keyed_jagged

TABLES = (
    Table("films", 1_000, 16, ("history", "last"), "mean"),
    Table("age", 7, 4, ("age",), "sum"),
    Table("tags", 50, 8, ("tags",), "sum"),
)
FEATURES = ("tags", "history", "age", "last")


def jagged(*columns: list[list[int]]) -> KeyedJaggedTensor:
    pairs = [
        (torch.tensor([i for ids in column for i in ids]), torch.tensor(list(map(len, column)))) for column in columns
    ]
    return keyed_jagged({name: (ids.long(), lengths) for name, (ids, lengths) in zip(FEATURES, pairs, strict=True)})


BATCH = jagged([[1, 2], [], [49]], [[5], [999, 0, 3], []], [[6], [0], [1]], [[1], [], [2]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_tables(tmp_path / "tables", TABLES, embedding_tables(TABLES))
    return tmp_path / "tables"


def weight(folder: Path, table: Table) -> torch.Tensor:
    return torch.cat([block for _, block in row_blocks(folder, table)])


def look_up(module: torch.nn.Module, batch: KeyedJaggedTensor) -> dict[str, torch.Tensor]:
    found = asyncio.run(LocalTables(TABLES, module).look_up(batch))
    assert found.shape == (batch.stride(), 16 + 16 + 4 + 8) and found.dtype == torch.float32
    return dict(zip(("history", "last", "age", "tags"), found.split([16, 16, 4, 8], dim=1), strict=True))


def test_lookups_pool_the_rows_of_each_request(folder: Path) -> None:
    module = embedding_tables(TABLES)
    load_tables(folder, TABLES, module)
    found = look_up(module, BATCH)
    films, tags = weight(folder, TABLES[0]), weight(folder, TABLES[2])
    assert torch.equal(found["history"][0], films[5])
    torch.testing.assert_close(found["history"][1], films[[999, 0, 3]].mean(0), rtol=0, atol=1e-6)
    assert torch.equal(found["history"][2], torch.zeros(16))
    torch.testing.assert_close(found["tags"][0], tags[1] + tags[2], rtol=0, atol=1e-6)
    assert torch.equal(found["tags"][1], torch.zeros(8))


def test_the_description_of_tables_is_read_back(folder: Path) -> None:
    assert read_tables(folder) == TABLES


@pytest.mark.parametrize("block_bytes", [1, 64 * 7, 64 << 20])
def test_any_part_of_a_table_is_read_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(table_files, "_BLOCK_BYTES", block_bytes)
    whole = weight(folder, TABLES[0])
    part = torch.empty(37, 8)
    read_part(folder, TABLES[0], (963, 4), part)
    assert torch.equal(part, whole[963:, 4:12])
    nothing = torch.empty(0, 16)
    read_part(folder, TABLES[0], (1_000, 0), nothing)


def test_a_file_that_does_not_fit_is_named(folder: Path) -> None:
    other = Table("age", 8, 4, ("age",), "sum")
    with pytest.raises(SnapshotError, match=r"age.safetensors: expected \[8, 4, 'F32'\], got \[7, 4, 'F32'\]"):
        read_part(folder, other, (0, 0), torch.empty(8, 4))
    (folder / "tags.safetensors").unlink()
    with pytest.raises(SnapshotError, match=r"tags.safetensors"):
        weight(folder, TABLES[2])
    (folder / "tables.json").write_text('[{"name": "age"}]')
    with pytest.raises(SnapshotError, match=r"tables.json: not a readable list of tables"):
        read_tables(folder)


def test_int8_rows_are_within_half_a_step_of_the_saved_ones(folder: Path) -> None:
    module = int8_tables(TABLES, folder)
    rows = np.random.default_rng(0).integers(0, 1_000, 500).tolist()
    batch = jagged(*([[row % size] for row in rows] for size in (50, 1_000, 7, 1_000)))
    found = look_up(module, batch)
    for table, feature in zip(TABLES, ("history", "age", "tags"), strict=True):
        want = weight(folder, table)[[row % table.rows for row in rows]]
        span = want.amax(1) - want.amin(1)
        # Half a step of 1/255 of the row's span; fp16 holds scale and least value to 2**-11 of their size.
        bound = span / 510 + (span + want.abs().amax(1)) * 2**-11
        assert ((found[feature] - want).abs().amax(1) <= bound).all()
    assert not torch.equal(found["history"], weight(folder, TABLES[0])[rows])
    again = look_up(module, BATCH)
    assert torch.equal(again["history"][2], torch.zeros(16))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (jagged([[50]], [[]], [[]], [[]]), "tags: expected rows 0 to 49 of table 'tags', got 50"),
        (jagged([[]], [[1, -1]], [[]], [[]]), "history: expected rows 0 to 999 of table 'films', got -1"),
        (jagged([[]], [[]], [[]], [[2**60]]), f"last: expected rows 0 to 999 of table 'films', got {2**60}"),
    ],
)
def test_ids_outside_of_a_table_are_refused(batch: KeyedJaggedTensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ids(TABLES, batch)
    with pytest.raises(ValueError, match=message):
        look_up(embedding_tables(TABLES), batch)


def test_a_missing_feature_is_refused_and_others_are_left_alone() -> None:
    with pytest.raises(ValueError, match="features: expected 'year'"):
        check_ids([Table("year", 5, 4, ("year",), "sum")], BATCH)
    check_ids(TABLES[1:2], BATCH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("../up", 5, 4, ("f",), "sum"), "name: "),
        (("items", 5, 4, ("f",), "sum"), "name: expected none of what PyTorch's modules have already, got 'items'"),
        (("t", 0, 4, ("f",), "sum"), "t.rows: expected at least 1, got 0"),
        (("t", 5, 6, ("f",), "sum"), "t.dimension: expected a multiple of 4, got 6"),
        (("t", 5, 4, (), "sum"), "t.features: "),
        (("t", 5, 4, ("f", "f"), "sum"), "t.features: "),
        (("t", 5, 4, ("f",), "max"), "t.pooling: expected mean or sum, got 'max'"),
    ],
)
def test_tables_that_cannot_be_are_refused(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        Table(*arguments)


def test_tables_that_share_a_feature_are_refused() -> None:
    with pytest.raises(ValueError, match="tables: expected every feature once"):
        embedding_tables([Table("a", 5, 4, ("f",), "sum"), Table("b", 5, 4, ("f",), "sum")])


def test_without_torchrec_only_modules_are_refused(folder: Path) -> None:
    program = (
        "import sys; sys.modules['torchrec'] = None\n"
        "from pathlib import Path\n"
        "from silverray.shard.towers.table_files import read_tables\n"
        "from silverray.shard.towers.tables import embedding_tables\n"
        f"tables = read_tables(Path({str(folder)!r}))\n"
        "assert len(tables) == 3\n"
        "embedding_tables(tables)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert "TablesUnavailable: embedding tables: expected TorchRec to be installed" in done.stderr
    assert "requirements/torchrec-cpu.txt" in done.stderr
