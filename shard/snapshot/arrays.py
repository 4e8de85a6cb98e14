"""What the arrays of a snapshot must be: checked once as they are read, as compiled code checks no bounds.

Letters: n items of a partition, C clusters, D dimensions, J depths, W words of an item's bits, z tags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from silverray.kernels.bits import words_for
from silverray.shard.api import SnapshotError
from silverray.shard.printing import printable
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.keys import partition_of
from silverray.shard.schema.schema import Field, FieldType
from silverray.shard.snapshot.arrow_files import read_table
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import COLUMNS, INDEX, ITEMS, KEYS, PAYLOAD, SnapshotFiles, partition_folder

Arrays = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of arrays by name."""

_MOST_CURVE = 1 << 20
"""Most bytes of a recall curve, which has nine depths."""


def require_index_size(files: SnapshotFiles, catalog: Catalog) -> None:
    """Check that the index has as many clusters as the manifest says, unread; raises as `read_index` does."""
    _require_size(files, INDEX, _index_arrays(catalog), most=_MOST_CURVE)


def read_index(files: SnapshotFiles, catalog: Catalog) -> dict[str, Tensor]:
    """Centroids, cluster sizes and the recall curve.

    Raises:
        SnapshotError: the file is altered, or an array is not what it must be.
    """
    curve = {"depths": torch.float32, "fractions": torch.float32}
    found = _read(files, INDEX, _index_arrays(catalog), curve, most=_MOST_CURVE)
    sizes, depths, fractions = found["sizes"], found["depths"], found["fractions"]
    _require(bool(found["centroids"].isfinite().all()), files, INDEX, "centroids: expected finite numbers")
    good = bool((sizes >= 0).all() and (sizes <= catalog.items).all()) and int(sizes.sum()) == catalog.items
    _require(good, files, INDEX, f"sizes: expected numbers of items, {catalog.items} in all")
    good = 1 <= len(depths) == len(fractions) and bool(depths[0] >= 1 and (depths.diff() > 0).all())
    _require(good and bool(depths.isfinite().all()), files, INDEX, "depths: expected ascending numbers from 1 on")
    good = bool((fractions >= 0).all() and (fractions <= 1).all() and (fractions.diff() >= 0).all())
    _require(good, files, INDEX, "fractions: expected ascending numbers from 0 to 1")
    return found


def read_keys(files: SnapshotFiles, catalog: Catalog, number: int) -> dict[str, Tensor]:
    """Keys of a partition's items and their clusters; raises as `read_index` does."""
    items, name = catalog.partition_items[number], f"{partition_folder(number)}/{KEYS}"
    found = _read(files, name, {"keys": (torch.int64, (items,)), "clusters": (torch.int32, (items,))})
    keys, clusters = found["keys"], found["clusters"]
    good = bool((clusters >= 0).all() and (clusters < catalog.clusters).all())
    _require(good, files, name, f"clusters: expected 0 to {catalog.clusters - 1}")
    good = bool((keys >= 0).all() and (keys.sort().values.diff() > 0).all())
    _require(good, files, name, "keys: expected 0 to 2^63 - 1, each once")
    good = bool((partition_of(keys.numpy(), catalog.partitions) == number).all())
    _require(good, files, name, "keys: expected those of this partition")
    return found


def read_items(files: SnapshotFiles, catalog: Catalog, number: int) -> dict[str, Tensor]:
    """Vectors, codes and filter bits of a partition's items; raises as `read_index` does."""
    items, name = catalog.partition_items[number], f"{partition_folder(number)}/{ITEMS}"
    found = _read(
        files,
        name,
        {
            "codes": (torch.int8, (items, catalog.dimension)),
            "scales": (torch.float32, (items,)),
            "vectors": (catalog.cache_type, (items, catalog.dimension)),
            "bits": (torch.int64, (items, words_for(catalog.layout.rows))),
        },
    )
    if not items:
        return found
    # The least and the largest number are NaN if any is.
    for array in ("vectors", "scales"):
        ends = torch.stack(torch.aminmax(found[array]))
        _require(bool(ends.isfinite().all()), files, name, f"{array}: expected finite numbers")
    _require(bool((found["scales"] >= 0).all()), files, name, "scales: expected numbers of 0 or more")
    _require(bool((found["bits"][:, 0] & 1).all()), files, name, "bits: expected plane 0 to be set")
    return found


def read_columns(files: SnapshotFiles, catalog: Catalog, number: int) -> Columns:
    """Stored values of a partition's items; raises as `read_index` does."""
    items, name = catalog.partition_items[number], f"{partition_folder(number)}/{COLUMNS}"
    exact: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"items": (torch.int64, (1,))}
    ragged = {}
    for field_name, field in catalog.schema.filterable.items():
        dtype = torch.float64 if field.type == "float" else torch.int64
        if field.type == "tags":
            ragged[f"{field_name}.values"] = dtype
            exact[f"{field_name}.offsets"] = (torch.int64, (items + 1,))
        else:
            exact[f"{field_name}.values"] = (dtype, (items,))
        if field.nullable:
            exact[f"{field_name}.present"] = (torch.bool, (items,))
    found = _read(files, name, exact, ragged)
    _require(int(found["items"]) == items, files, name, f"items: expected {items}")
    for field_name, field in catalog.schema.filterable.items():
        _check_column(files, name, field_name, field, found)
    return Columns.from_tensors(found, catalog.schema)


def read_payload(files: SnapshotFiles, catalog: Catalog, number: int) -> pa.Table:
    """What replies show of a partition's items; raises as `read_index` does."""
    items, name = catalog.partition_items[number], f"{partition_folder(number)}/{PAYLOAD}"
    fields = {field: its.type for field, its in catalog.schema.fields.items() if its.payload}
    wanted: dict[str, FieldType] = {
        **({catalog.schema.id: "category"} if catalog.id_type == "string" else {}),
        **fields,
    }

    def check(schema: pa.Schema) -> None:
        names = f"columns: expected {', '.join(wanted) or 'none'}"
        _require(schema.names == list(wanted), files, name, names)
        for column, kind in wanted.items():
            got = schema.field(column).type
            _require(_holds(got, kind), files, name, f"{column}: expected {kind}, got {printable(str(got))[:100]}")

    try:
        table = read_table(files.read(name), check)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise SnapshotError(
            f"{files.path / name}: no readable table: {printable(' '.join(str(error).split()))}"
        ) from error
    if wanted:  # a table without columns has no rows
        _require(len(table) == items, files, name, f"rows: expected {items}, got {len(table)}")
    return table


def _check_column(files: SnapshotFiles, name: str, field_name: str, field: Field, found: Mapping[str, Tensor]) -> None:
    values = found[f"{field_name}.values"]
    if field.type == "float":
        _require(not bool(values.isnan().any()), files, name, f"{field_name}.values: expected no NaN")
    if field.nullable:
        marks = found[f"{field_name}.present"].view(torch.uint8)
        _require(bool((marks <= 1).all()), files, name, f"{field_name}.present: expected 0 or 1")
    if field.type == "tags":
        offsets = found[f"{field_name}.offsets"]
        good = bool(offsets[0] == 0 and offsets[-1] == len(values) and (offsets.diff() >= 0).all())
        _require(good, files, name, f"{field_name}.offsets: expected ascending numbers from 0 to {len(values)}")


def _index_arrays(catalog: Catalog) -> Arrays:
    centroids = (torch.float32, (catalog.clusters, catalog.dimension))
    return {"centroids": centroids, "sizes": (torch.int64, (catalog.clusters,))}


def _require_size(files: SnapshotFiles, name: str, exact: Arrays, *, most: int | None) -> None:
    """Check that a file has the bytes of some arrays, and `most` more."""
    least = sum(dtype.itemsize * math.prod(shape) for dtype, shape in exact.values())
    rest = files.array_bytes(name) - least
    good = 0 <= rest <= (rest if most is None else most)
    _require(good, files, name, f"expected {least} bytes of arrays, got {least + rest}")


def _read(
    files: SnapshotFiles,
    name: str,
    exact: Arrays,
    ragged: Mapping[str, torch.dtype] = MappingProxyType({}),
    most: int | None = None,
) -> dict[str, Tensor]:
    """Read arrays of given shapes, and some of any length.

    A file whose size says that it holds others is not read at all. Those of any length take `most` bytes; None does not
    say how many.
    """
    _require_size(files, name, exact, most=most if ragged else 0)
    found = files.tensors(name)
    _require(set(found) == {*exact, *ragged}, files, name, f"expected the arrays {', '.join({**exact, **ragged})}")
    for array, (dtype, shape) in exact.items():
        got = found[array]
        good = got.dtype == dtype and tuple(got.shape) == shape
        _require(good, files, name, f"{array}: expected {list(shape)} {dtype}, got {list(got.shape)} {got.dtype}")
    for array, dtype in ragged.items():
        got = found[array]
        good = got.dtype == dtype and got.dim() == 1
        _require(good, files, name, f"{array}: expected one row of {dtype}, got {list(got.shape)} {got.dtype}")
    return found


def _require(good: bool, files: SnapshotFiles, name: str, message: str) -> None:
    if not good:
        raise SnapshotError(f"{files.path / name}: {message}")


_TYPES: Mapping[FieldType, tuple[Callable[[Any], bool], ...]] = {
    "category": (pa.types.is_string, pa.types.is_large_string),
    "tags": (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    "int": (pa.types.is_integer,),
    "float": (pa.types.is_floating,),
    "bool": (pa.types.is_boolean,),
    "date": (pa.types.is_date,),
}
"""Types of columns that some release has published for a field."""


def _holds(type_: pa.DataType, kind: FieldType) -> bool:
    """Whether a column is of a field's type; one of nulls only is, and a dictionary of its values."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_null(type_):
        return True
    if not any(is_one(type_) for is_one in _TYPES[kind]):
        return False
    return kind != "tags" or _holds(type_.value_type, "category")
