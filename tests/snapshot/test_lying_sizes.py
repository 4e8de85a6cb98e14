"""What a snapshot says of its sizes is compared with its files before there is room for them (see `foreign.opener`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from foreign import Refused, reseal
from saved_tower import save_tower

from silverray.shard.api import ShardTooLarge
from silverray.shard.engine.engine import Engine
from silverray.shard.index.loader import load_partitions
from silverray.shard.index.placement import Placement
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.documents import MOST_HEADER_BYTES, MOST_VALUES
from silverray.shard.snapshot.files import (
    COLUMNS,
    INDEX,
    ITEMS,
    KEYS,
    LAYOUT,
    MANIFEST,
    PAYLOAD,
    SnapshotFiles,
    partition_folder,
    seal,
)

PART = partition_folder(0)
KEYS_FILE, ITEMS_FILE, COLUMNS_FILE, PAYLOAD_FILE = (f"{PART}/{name}" for name in (KEYS, ITEMS, COLUMNS, PAYLOAD))
HUGE = (2**30, 2**40, 2**62)
TEXT = 1 << 20


@pytest.mark.parametrize("count", [5, 10**6, 2**31 - 1])
def test_clusters_that_the_files_do_not_have(count: int, copy: Path, refused: Refused) -> None:
    seal(json.loads((copy / MANIFEST).read_bytes()) | {"clusters": count}, copy / MANIFEST)
    assert "bytes of arrays, got" in refused(copy, INDEX)


def test_items_that_the_files_do_not_have(copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    seal(manifest | {"partition_items": [10**5, 20]}, copy / MANIFEST)
    assert "sizes: expected numbers of items" in refused(copy, INDEX)
    seal(
        manifest | {"partition_items": [20, 20] if manifest["partition_items"] != [20, 20] else [19, 21]},
        copy / MANIFEST,
    )
    assert "bytes of arrays, got" in refused(copy, KEYS_FILE)
    seal(manifest | {"partition_items": [10**12, 20]}, copy / MANIFEST)
    with pytest.raises(ShardTooLarge):  # as any shard of so many items is, unread
        Engine.open(copy)


@pytest.mark.parametrize(("dimension", "message"), [(17, "centroids: expected [4, 17]"), (4_096, "bytes of arrays")])
def test_a_dimension_that_the_files_do_not_have(dimension: int, message: str, copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest["schema"]["vector"]["dimension"] = dimension
    seal(manifest, copy / MANIFEST)
    assert message in refused(copy, INDEX)


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(file: Path, header: bytes, arrays: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + arrays)


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("name", [INDEX, KEYS_FILE, ITEMS_FILE, COLUMNS_FILE])
def test_headers_of_arrays_that_are_not_there(name: str, size: int, copy: Path, refused: Refused) -> None:
    header, arrays = header_of(copy / name)
    for array, its in header.items():
        begin, end = its["data_offsets"]
        for lie in (
            {"shape": [size]},
            {"shape": [size, size]},
            {"shape": [size, 0]},
            {"shape": [size], "data_offsets": [begin, begin + 8 * size]},
            {"shape": [0, size], "data_offsets": [end, end]},
        ):
            write_header(copy / name, json.dumps(header | {array: its | lie}).encode(), arrays)
            reseal(copy)
            refused(copy, name)


def test_headers_longer_than_headers_are(copy: Path, refused: Refused) -> None:
    header, arrays = header_of(copy / INDEX)
    empty = {f"array {place}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for place in range(300_000)}
    write_header(copy / INDEX, json.dumps(header | empty).encode(), arrays)
    reseal(copy)
    assert f"expected a header of at most {MOST_HEADER_BYTES} bytes" in refused(copy, INDEX)


@pytest.mark.parametrize("name", [MANIFEST, LAYOUT])
@pytest.mark.parametrize("value", [b"[]", b"{}", b"1"])
def test_documents_of_more_values_than_documents_have(name: str, value: bytes, copy: Path, refused: Refused) -> None:
    """Each takes a few bytes of the file and dozens of memory: 160 MB were 5 GB."""
    (copy / name).write_bytes(b"[" + (value + b",") * 50_000_000 + value + b"]")
    if name == LAYOUT:
        reseal(copy)
    assert f"expected at most {MOST_VALUES} values" in refused(copy, name)


def rewrite(snapshot: Path, change: Callable[[pa.Table], pa.Table], parts: int = 2, **options: Any) -> None:
    """Change the payload of partitions; `options` are Arrow's for writing."""
    for number in range(parts):
        file = snapshot / partition_folder(number) / PAYLOAD
        with pa.OSFile(str(file)) as source:
            table = change(pa.ipc.open_file(source).read_all())
        with pa.ipc.new_file(str(file), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
    reseal(snapshot)


def titled(titles: Callable[..., pa.Array]) -> Callable[[pa.Table], pa.Table]:
    """Give a payload other titles: `titles` makes as many as it is told."""
    return lambda table: table.set_column(table.column_names.index("title"), "title", titles(len(table)))


def one_long_title(count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * TEXT]))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_payloads_whatever_length_they_give(codec: str, copy: Path, refused: Refused) -> None:
    rewrite(copy, titled(lambda count: pa.array(["x" * 1_000] * count, pa.large_string())), compression=codec)
    assert "expected arrays that are not compressed" in refused(copy, PAYLOAD_FILE)
    content = (copy / PAYLOAD_FILE).read_bytes()
    items = json.loads((copy / MANIFEST).read_bytes())["partition_items"][0]
    length = (1_000 * items).to_bytes(8, "little")
    assert length in content
    for lie in HUGE:
        (copy / PAYLOAD_FILE).write_bytes(content.replace(length, lie.to_bytes(8, "little")))
        reseal(copy)
        assert "expected arrays that are not compressed" in refused(copy, PAYLOAD_FILE)


def test_a_compressed_dictionary(copy: Path, refused: Refused) -> None:
    rewrite(copy, titled(one_long_title), compression="zstd")
    assert (copy / PAYLOAD_FILE).stat().st_size < TEXT / 10
    assert "expected arrays that are not compressed" in refused(copy, PAYLOAD_FILE)


def test_views_of_texts(copy: Path, refused: Refused) -> None:
    rewrite(copy, titled(lambda count: pa.array(["a longer text"] * count, pa.string_view())))
    assert "title: expected category, got string_view" in refused(copy, PAYLOAD_FILE)


def test_columns_that_lie_over_others(copy: Path, refused: Refused) -> None:
    def long_artists(table: pa.Table) -> pa.Table:
        artists = pa.array(["x" * 10_000] * len(table), pa.large_string())
        return table.set_column(table.column_names.index("artist"), "artist", artists)

    rewrite(copy, long_artists)
    content = bytearray((copy / PAYLOAD_FILE).read_bytes())
    items = json.loads((copy / MANIFEST).read_bytes())["partition_items"][0]
    # A record batch lists start and length of the arrays of each text column: which are there, offsets, letters.
    place = content.index((10_000 * items).to_bytes(8, "little")) - 8
    content[place - 64 : place - 32] = content[place - 16 : place + 16]  # countries are artists
    (copy / PAYLOAD_FILE).write_bytes(content)
    reseal(copy)
    assert "some lie over others" in refused(copy, PAYLOAD_FILE)


def test_payloads_of_deeply_nested_types(copy: Path, refused: Refused) -> None:
    for depth in (1, 20, 60):  # Arrow writes no deeper ones
        nested = pa.large_string()
        for _ in range(depth):
            nested = pa.large_list(nested)
        rewrite(copy, titled(lambda count, type_=nested: pa.nulls(count, type_)))
        refused(copy, PAYLOAD_FILE)


def test_partitions_with_columns_of_different_types(copy: Path, refused: Refused) -> None:
    rewrite(copy, titled(one_long_title), parts=1)
    assert "of the same types as in partition 0" in refused(copy, f"{partition_folder(1)}/{PAYLOAD}")


def test_texts_that_many_items_share_must_fit_once_each_item_has_its_own(copy: Path) -> None:
    rewrite(copy, titled(one_long_title))
    files = SnapshotFiles.open(copy)
    here, parts = Placement(torch.device("cpu")), range(2)
    catalog, free = Catalog.of(files), 30 * TEXT
    assert len(load_partitions(files, catalog, parts, here, lambda _: free).lists) == 40  # they stay shared
    with pytest.raises(ShardTooLarge, match=r"shard needs 40\.0 MiB in host memory \(texts of the payload 40\.0\), 30"):
        load_partitions(files, catalog, parts, here, lambda _: free, slack=0.1)


def test_a_dictionary_that_fits_is_read(copy: Path) -> None:
    rewrite(copy, titled(one_long_title))
    engine = Engine.open(copy, slack=0.1)
    slots = engine.payload.slots(engine.payload.slot_keys)
    assert {len(title) for title in engine.payload.fields(["title"], slots[slots >= 0])["title"]} == {TEXT}


def test_tables_that_the_tower_does_not_have(tmp_path: Path, refused: Refused) -> None:
    model = save_tower(tmp_path / "model", np.arange(9, dtype=np.int64), 16)
    file = model / "tables" / "tables.json"
    good = json.loads(file.read_bytes())
    for place, entry, size in ((0, "rows", 10**9), (1, "rows", 10**12), (2, "dimension", 2**40)):
        tables = [dict(table) for table in good]
        tables[place][entry] = size
        file.write_text(json.dumps(tables))
        refused(model, "user_tower.safetensors", "encoder")


def test_a_tower_that_its_weights_do_not_have(tmp_path: Path, refused: Refused) -> None:
    model = save_tower(tmp_path / "model", np.arange(9, dtype=np.int64), 16)
    info = json.loads((model / "module_info.json").read_bytes())
    info["tower"]["hidden"] = 10**9
    (model / "module_info.json").write_text(json.dumps(info))
    refused(model, "user_tower.safetensors", "encoder")
