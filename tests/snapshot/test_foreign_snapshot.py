"""A snapshot of somebody else: whatever it says, sealed by the book, it is refused in one line that names the file."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from catalogs import make_items, schema_text, write_set_wise
from foreign import Refused, reseal
from safetensors.torch import load_file, save_file
from torch import Tensor

from silverray.shard.api import SnapshotError
from silverray.shard.engine.engine import Engine
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
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

Arrays = dict[str, Tensor]
PART = partition_folder(0)
NAN, INF = float("nan"), float("inf")


def test_a_copy_that_is_sealed_again_is_read(copy: Path) -> None:
    reseal(copy)
    assert Engine.open(copy).items == 40


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


WRONG = [None, -1, 1.5, "x", True, [], [1], {}, {"a": 1}, 2**70, NAN, INF, "\x1b]0;x\x07", nested(500)]
ENTRIES = ["format", "version", "seq", "id_type", "schema", "partition_items", "clusters", "cache", "vector_space"]
ENTRIES += ["tasks", "model", "build", "files", "number"]
FINE = {("model", "None"), ("vector_space", "'x'"), ("version", "'x'"), ("partition_items", "[1]")}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_of_another_kind_is_refused(entry: str, copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    for value in WRONG:
        if (entry, repr(value)[:99]) in FINE or (entry == "number" and value is None):
            continue
        seal(manifest | {entry: value}, copy / MANIFEST)
        refused(copy, MANIFEST)
    if entry != "number":
        seal({name: its for name, its in manifest.items() if name != entry}, copy / MANIFEST)
        refused(copy, MANIFEST)


@pytest.mark.parametrize(
    "entries",
    [
        {"partition_items": [-(10**12), 10**12 + 40]},
        {"partition_items": [20, 20, 0]},
        {"partition_items": [10**30, 1]},
        {"clusters": 0},
        {"clusters": 2**31},
        {"seq": 2**63},
        {"id_type": "uuid"},
        {"model": [1]},
        {"model": {"tasks": ["other"], "dimension": 16}},
        {"model": {"tasks": ["default"], "dimension": 15}},
        {"tasks": ["default", "default"]},
        {"version": "../../y"},
        {"version": "\x1b]0;…\x07/../../y"},
        {"vector_space": "a\nb"},
        {"build": {"seed": 0, "items_seq": -1}},
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_refused(entries: dict[str, Any], copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    seal(manifest | entries, copy / MANIFEST)
    refused(copy, MANIFEST)


@pytest.mark.parametrize(
    "model",
    [{"overarch": 3}, {"overarch": {}}, {"overarch": {"scorer": []}}, {"tower": 1}, {"tower": 1, "input_names": 3}],
)
def test_a_model_that_cannot_be_read_is_refused(model: dict[str, Any], copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    seal(manifest | {"model": {"tasks": ["default"], "dimension": 16, **model}}, copy / MANIFEST)
    with pytest.raises(SnapshotError):
        Engine.open(copy)


@pytest.mark.parametrize(
    "sizes", [{"hidden": 2**40}, {"hidden": 8}, {"hidden": -8}, {"hidden": "x"}, {"other": 1}, [], 3]
)
def test_the_sizes_of_a_scorer_are_those_of_its_weights(sizes: Any, tmp_path: Path, refused: Refused) -> None:
    model = write_set_wise(tmp_path / "model", ("click", "like"))
    table, vectors = make_items(20)
    schema = Schema.parse(schema_text())
    made = publish(table, schema, tmp_path, vectors=vectors, model=model, version="v", partitions=1, clusters=2).path
    assert Engine.open(made).items == 20
    manifest = json.loads((made / MANIFEST).read_bytes())
    manifest["model"]["overarch"]["sizes"] = sizes
    seal(manifest, made / MANIFEST)
    assert "no usable scorer" in refused(made, "model/module_info.json")


def test_entries_of_later_releases_are_left_alone(copy: Path) -> None:
    seal(json.loads((copy / MANIFEST).read_bytes()) | {"colour": {"any": [1]}}, copy / MANIFEST)
    assert Engine.open(copy).items == 40


@pytest.mark.parametrize("content", ["[" * 200_000, "{}", "[]", "null", '{"checksum": NaN}', "\xff\xfe", ""])
def test_what_is_no_manifest_is_refused(content: str, copy: Path, refused: Refused) -> None:
    (copy / MANIFEST).write_text(content, encoding="latin-1")
    refused(copy, MANIFEST)


def test_a_pipe_or_a_folder_for_a_manifest_is_not_waited_for(copy: Path, refused: Refused) -> None:
    (copy / MANIFEST).unlink()
    os.mkfifo(copy / MANIFEST)
    refused(copy, MANIFEST)
    (copy / MANIFEST).unlink()
    (copy / MANIFEST).mkdir()
    refused(copy, MANIFEST)


@pytest.mark.parametrize(
    "name", ["../v/secret", "/etc/hostname", "a/../layout.json", "./layout.json", "a//b", ".", "", "x\x1b"]
)
def test_no_name_leads_out_of_the_folder(name: str, copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    seal(manifest, copy / MANIFEST)
    assert "below the snapshot" in refused(copy, MANIFEST)


@pytest.mark.parametrize("entry", [{"bytes": -1}, {"bytes": "1"}, {"sha256": "x"}, {"sha256": None}, {"bytes": 1.0}])
def test_a_file_is_described_properly(entry: dict[str, Any], copy: Path, refused: Refused) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest["files"][INDEX] |= entry
    seal(manifest, copy / MANIFEST)
    refused(copy, MANIFEST)


def test_links_are_not_followed(copy: Path, refused: Refused, tmp_path: Path) -> None:
    file = copy / PART / PAYLOAD
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert "got a link" in refused(copy, f"{PART}/{PAYLOAD}")
    file.unlink()
    (tmp_path / "elsewhere").rename(file)
    (copy / PART).rename(tmp_path / "part")
    (copy / PART).symlink_to(tmp_path / "part")
    assert "got a link" in refused(copy, PART)


def setting(name: str, place: Any, value: Any) -> Callable[[Arrays], Any]:
    """Change one number of an array."""
    return lambda arrays: arrays[name].__setitem__(place, value)


def typed(name: str, dtype: torch.dtype) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: arrays[name].to(dtype)})


def cut(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: arrays[name][:-1].clone()})


def longer(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: torch.cat([arrays[name], arrays[name][-1:]])})


def flat(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: arrays[name].reshape(1, -1)})


def without(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.pop(name)


def shapes(names: list[str]) -> list[Callable[[Arrays], Any]]:
    return [change(name) for change in (cut, longer, flat, without) for name in names]


INDEX_ARRAYS = ["centroids", "sizes", "depths", "fractions"]
COLUMN_ARRAYS = ["items", "country.values", "country.present", "tags.values", "tags.offsets", "price.values"]
CHANGES: list[tuple[str, Callable[[Arrays], Any]]] = [
    *((INDEX, change) for change in shapes(INDEX_ARRAYS)),
    (INDEX, setting("centroids", (0, 0), NAN)),
    (INDEX, setting("centroids", (0, 0), INF)),
    (INDEX, typed("centroids", torch.float64)),
    (INDEX, typed("sizes", torch.int32)),
    (INDEX, setting("sizes", 0, -1)),
    (INDEX, setting("sizes", 0, 2**40)),
    (INDEX, lambda arrays: arrays["sizes"].add_(torch.tensor([2**63 - 1, 2, -1, 2**63 - 1]))),
    (INDEX, setting("depths", 0, 0)),
    (INDEX, setting("depths", 1, NAN)),
    (INDEX, setting("depths", 1, 1)),
    (INDEX, setting("fractions", 0, -0.5)),
    (INDEX, setting("fractions", -1, 1.5)),
    (INDEX, setting("fractions", 0, NAN)),
    (INDEX, lambda arrays: arrays.update({"more": torch.zeros(1)})),
    *((f"{PART}/{KEYS}", change) for change in shapes(["keys", "clusters"])),
    (f"{PART}/{KEYS}", setting("clusters", 0, 2**31 - 1)),
    (f"{PART}/{KEYS}", setting("clusters", 0, 4)),
    (f"{PART}/{KEYS}", setting("clusters", 0, -1)),
    (f"{PART}/{KEYS}", typed("clusters", torch.int64)),
    (f"{PART}/{KEYS}", typed("keys", torch.float64)),
    (f"{PART}/{KEYS}", setting("keys", 0, -1)),
    (f"{PART}/{KEYS}", lambda arrays: arrays["keys"].__setitem__(0, int(arrays["keys"][1]))),
    (f"{PART}/{KEYS}", lambda arrays: arrays["keys"].add_(1)),
    *((f"{PART}/{ITEMS}", change) for change in shapes(["codes", "scales", "vectors", "bits"])),
    (f"{PART}/{ITEMS}", typed("vectors", torch.bfloat16)),
    (f"{PART}/{ITEMS}", typed("scales", torch.int32)),
    (f"{PART}/{ITEMS}", setting("scales", 0, NAN)),
    (f"{PART}/{ITEMS}", setting("scales", 0, -1)),
    (f"{PART}/{ITEMS}", setting("vectors", (1, 1), NAN)),
    (f"{PART}/{ITEMS}", setting("vectors", (1, 1), -INF)),
    (f"{PART}/{ITEMS}", setting("bits", 0, 0)),
    *((f"{PART}/{COLUMNS}", change) for change in shapes(COLUMN_ARRAYS) if change is not None),
    (f"{PART}/{COLUMNS}", setting("items", 0, 10**12)),
    (f"{PART}/{COLUMNS}", setting("tags.offsets", 0, 1)),
    (f"{PART}/{COLUMNS}", setting("tags.offsets", 1, -5)),
    (f"{PART}/{COLUMNS}", setting("tags.offsets", 1, 10**12)),
    (f"{PART}/{COLUMNS}", setting("tags.offsets", -1, 10**12)),
    (f"{PART}/{COLUMNS}", setting("price.values", 0, NAN)),
    (f"{PART}/{COLUMNS}", typed("price.values", torch.int64)),
    (f"{PART}/{COLUMNS}", typed("year.values", torch.float64)),
    (f"{PART}/{COLUMNS}", typed("country.present", torch.uint8)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{n}-{Path(c[0]).stem}" for n, c in enumerate(CHANGES)])
def test_an_array_that_is_not_what_it_must_be_is_refused(
    name: str, change: Callable[[Arrays], Any], copy: Path, refused: Refused
) -> None:
    arrays = load_file(copy / name)
    change(arrays)
    save_file({key: array.contiguous() for key, array in arrays.items()}, copy / name)
    reseal(copy)
    refused(copy, name)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x00" * 64, (2**62).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0{}"]
)
@pytest.mark.parametrize("name", [INDEX, f"{PART}/{KEYS}", f"{PART}/{ITEMS}", f"{PART}/{COLUMNS}", f"{PART}/{PAYLOAD}"])
def test_a_file_of_nothing_like_arrays_is_refused(name: str, content: bytes, copy: Path, refused: Refused) -> None:
    (copy / name).write_bytes(content)
    reseal(copy)
    refused(copy, name)


def payload_of(copy: Path) -> pa.Table:
    return pa.ipc.open_file(str(copy / PART / PAYLOAD)).read_all()


PAYLOADS: list[Callable[[pa.Table], pa.Table]] = [
    lambda table: table.slice(1),
    lambda table: pa.concat_tables([table, table]),
    lambda table: table.drop_columns(["year"]),
    lambda table: table.append_column("more", table["year"]),
    lambda table: table.rename_columns(["\x1b[31m", *table.column_names[1:]]),
    lambda table: table.set_column(0, "id", pa.array(range(len(table)))),
    lambda table: table.set_column(table.column_names.index("year"), "year", table["title"]),
    lambda table: table.set_column(table.column_names.index("tags"), "tags", pa.array([[1]] * len(table))),
    lambda table: table.set_column(table.column_names.index("title"), "title", invalid_text(len(table))),
]


def invalid_text(count: int) -> pa.Array:
    return pa.StringArray.from_buffers(
        count, pa.py_buffer(np.arange(count + 1, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff" * count)
    )


@pytest.mark.parametrize("change", PAYLOADS)
def test_a_payload_that_does_not_fit_the_schema_is_refused(
    change: Callable[[pa.Table], pa.Table], copy: Path, refused: Refused
) -> None:
    table = change(payload_of(copy))
    with pa.ipc.new_file(str(copy / PART / PAYLOAD), table.schema) as writer:
        writer.write_table(table)
    reseal(copy)
    refused(copy, f"{PART}/{PAYLOAD}")


def at(*path: str, value: Any) -> Callable[[Any], Any]:
    def change(layout: Any) -> Any:
        for name in path[:-1]:
            layout = layout[name]
        layout[path[-1]] = value

    return change


LAYOUTS = [
    at("rows", value=10**12),
    at("rows", value="1"),
    at("fields", value=[]),
    at("fields", value={}),
    at("fields", "year", value=3),
    at("fields", "year", "kind", value="other"),
    at("fields", "year", "kind", value="boolean"),
    at("fields", "year", "first", value=-3),
    at("fields", "year", "has", value=None),
    at("fields", "year", "top", value=2**70),
    at("fields", "year", "top", value=-1),
    at("fields", "year", "base", value=2**64),
    at("fields", "year", "shift", value=99),
    at("fields", "year", "floating", value=True),
    at("fields", "year", "more", value=1),
    at("fields", "country", "values", value=[3, 2, 1]),
    at("fields", "country", "values", value=[2**64]),
    at("fields", "country", "values", value=5),
    at("fields", "country", "other", value=None),
    at("fields", "country", "other", "size", value=0),
    at("fields", "country", "other", "blocks", value=10**9),
    at("fields", "country", "other", "salt", value=-1),
    at("fields", "country", "other", "fpr", value="x"),
]


@pytest.mark.parametrize("change", LAYOUTS)
def test_a_layout_that_does_not_fit_the_schema_is_refused(
    change: Callable[[Any], Any], copy: Path, refused: Refused
) -> None:
    layout = json.loads((copy / LAYOUT).read_bytes())
    change(layout)
    (copy / LAYOUT).write_text(json.dumps(layout))
    reseal(copy)
    refused(copy, LAYOUT)


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "3", '{"rows": NaN}', "\xff"])
def test_what_is_no_layout_is_refused(content: str, copy: Path, refused: Refused) -> None:
    (copy / LAYOUT).write_text(content, encoding="latin-1")
    reseal(copy)
    refused(copy, LAYOUT)


def test_verify_reads_nothing_beside_the_snapshot(copy: Path) -> None:
    assert len(list(SnapshotFiles.open(copy).verify())) == 2 * 4 + 2
