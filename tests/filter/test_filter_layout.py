"""Planes: their choice, their bits, and how often hashed ones are wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from silverray.kernels.bits import transpose_bits
from silverray.kernels.programs import evaluate_programs
from silverray.shard.filter.compiler import compile_filter
from silverray.shard.filter.layout import MAX_EXACT_VALUES, PlaneLayout
from silverray.shard.filter.planes import ExactPlanes, HashedPlanes, SlicedPlanes, choose_hashed, float_numbers
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.schema import Schema


def schema(spec: str) -> Schema:
    return Schema.parse(f"{{id: i, vector: {{dimension: 1, metric: ip}}, fields: {{f: {{{spec}}}}}}}")


def laid_out(array: pa.Array, spec: str, target: float = 0.01) -> tuple[Columns, PlaneLayout]:
    columns = read_columns(pa.table({"f": array}), schema(spec))
    return columns, PlaneLayout.choose(schema(spec), columns, target)


def test_planes_do_not_overlap(catalog: Any) -> None:
    taken = [0]
    for field in catalog.layout.fields.values():
        taken += [] if field.has is None else [field.has]
        taken += range(field.planes.first, field.planes.first + field.planes.count)
    assert taken == list(range(catalog.layout.rows))


def test_json_round_trip(catalog: Any) -> None:
    assert PlaneLayout.from_json(json.loads(json.dumps(catalog.layout.to_json()))) == catalog.layout


def test_the_choice_does_not_depend_on_order(catalog: Any) -> None:
    columns = catalog.columns
    order = torch.arange(columns.items - 1, -1, -1)
    layouts = [PlaneLayout.choose(catalog.schema, part) for part in (columns, columns.take(order))]
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("count, kind", [(MAX_EXACT_VALUES, ExactPlanes), (MAX_EXACT_VALUES + 1, HashedPlanes)])
def test_many_values_are_hashed(count: int, kind: type) -> None:
    _, layout = laid_out(pa.array([f"v{number}" for number in range(count)]), "type: category")
    assert isinstance(layout.fields["f"].planes, kind)


def test_exact_planes_hold_one_value_each() -> None:
    columns, layout = laid_out(pa.array(["a", "b", "a", "c"]), "type: category")
    planes = layout.fields["f"].planes
    assert isinstance(planes, ExactPlanes)
    bits = transpose_bits(layout.encode(columns), layout.rows)
    rows = {value: int(bits[planes.first + place, 0]) for place, value in enumerate(planes.values)}
    values = columns.fields["f"].values.tolist()
    assert rows == {values[0]: 0b0101, values[1]: 0b0010, values[3]: 0b1000}
    assert bits[planes.other.first :].count_nonzero() == 0


@pytest.mark.parametrize("low, high, width", [(0, 0, 0), (-5, -4, 1), (1990, 2020, 5), (-(2**63), 2**63 - 1, 64)])
def test_sliced_planes_hold_the_code(low: int, high: int, width: int) -> None:
    values = [low, high, (low + high) // 2]
    columns, layout = laid_out(pa.array(values), "type: int")
    planes = layout.fields["f"].planes
    assert isinstance(planes, SlicedPlanes)
    assert planes.width == width
    bits = transpose_bits(layout.encode(columns), layout.rows)
    first = planes.first + 2
    codes = [sum((int(bits[first + bit, 0]) >> item & 1) << bit for bit in range(width)) for item in range(3)]
    assert codes == [value - low for value in values]
    assert bits[1:3].count_nonzero() == 0


@pytest.mark.parametrize("flags", [60, 61, 62, 125])
def test_a_field_of_one_value_may_end_a_word(flags: int) -> None:
    names = [f"b{number}" for number in range(flags)]
    fields = "".join(f"{name}: {{type: bool}}, " for name in names)
    spec = Schema.parse(f"{{id: i, vector: {{dimension: 1, metric: ip}}, fields: {{{fields}year: {{type: int}}}}}}")

    def columns(years: list[int]) -> Columns:
        table = pa.table({**{name: [True] * len(years) for name in names}, "year": years})
        return read_columns(table, spec)

    layout = PlaneLayout.choose(spec, columns([1990]))
    assert layout.rows == 1 + flags + 2
    bits = transpose_bits(layout.encode(columns([1989, 1990, 1991])), layout.rows)
    assert bits[-3:, 0].tolist() == [0b111, 0b001, 0b100]


def test_numbers_beyond_the_published_ones() -> None:
    columns, layout = laid_out(pa.array([10, 20, 9, 21, -(2**63), 2**63 - 1]), "type: int")
    layout = PlaneLayout.choose(schema("type: int"), columns.take(torch.tensor([0, 1])))
    bits = transpose_bits(layout.encode(columns), layout.rows)
    assert [int(row) for row in bits[1:3, 0]] == [0b010100, 0b101000]
    assert int(bits[3:].bitwise_and(0b111100).count_nonzero()) == 0


def test_float_numbers_keep_order() -> None:
    values = np.array([-np.inf, -1e300, -1.0, -5e-324, 0.0, 5e-324, 1.0, np.nextafter(1, 2), 1e300, np.inf])
    assert (np.diff(float_numbers(values).astype(object)) > 0).all()


def test_float_codes_have_at_most_24_bits() -> None:
    values = np.random.default_rng(0).normal(size=1000) * 1e9
    _, layout = laid_out(pa.array(values), "type: float")
    planes = layout.fields["f"].planes
    assert isinstance(planes, SlicedPlanes)
    assert planes.width == 24


def test_a_group_reaches_its_target_cheaply() -> None:
    group = choose_hashed(0, 1, np.ones(100, dtype=np.int64), 0.01)
    assert (group.count, group.blocks) == (15, 3)
    assert group.fpr == pytest.approx(1 / 125)
    crowded = choose_hashed(0, 1, np.full(100, 20), 0.001)
    assert crowded.fpr <= 0.001
    assert crowded.fpr == pytest.approx((1 - (1 - 1 / crowded.size) ** 20) ** crowded.blocks)


def test_places_are_frozen() -> None:
    """The places are part of the snapshot format: another mix would read old snapshots wrongly."""
    group = HashedPlanes(first=100, blocks=3, size=5, salt=42, fpr=0.008)
    golden = [[103, 106, 113], [100, 108, 112], [100, 106, 112]]
    assert group.places(np.array([0, 1, 2**63 - 1])).tolist() == golden


@pytest.mark.parametrize("target", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("kind", ["category", "tags"])
def test_false_positive_rate(kind: str, target: float) -> None:
    rng = np.random.default_rng(11)
    items, vocabulary = 20_000, 4_000
    counts = np.ones(items, dtype=np.int64) if kind == "category" else rng.integers(0, 12, items)
    words = np.array([f"w{number}" for number in range(vocabulary)])[rng.zipf(1.5, counts.sum()) % vocabulary]
    array = pa.array(words)
    if kind == "tags":
        array = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]), array)
    columns, layout = laid_out(array, f"type: {kind}", target)
    planes = transpose_bits(layout.encode(columns), layout.rows)
    wrong, possible = 0, 0
    for number in range(0, vocabulary, 10):
        text = f"f = 'w{number}'" if kind == "category" else f"f any ('w{number}')"
        compiled = compile_filter(text, schema(f"type: {kind}"), layout)
        assert compiled.bloom.check is None
        words_ = evaluate_programs(planes, torch.from_numpy(compiled.bloom.program)[None])
        shown = np.bitwise_count(words_.numpy().view(np.uint64)).sum()
        value = compiled.expression.values[0]  # type: ignore[union-attr]
        column = columns.fields["f"]
        held = column.values == value
        if column.offsets is not None:
            rows = torch.repeat_interleave(torch.arange(items), column.offsets.diff())
            true = len(torch.unique(rows[held]))
        else:
            true = int(held.sum())
        assert shown >= true
        wrong, possible = wrong + shown - true, possible + items - true
    summary = layout.describe()[1]
    assert (summary.rows, summary.per_term) == (layout.fields["f"].planes.count, layout.fields["f"].planes.blocks)  # type: ignore[union-attr]
    print(
        f"{kind}: M={summary.rows} K={summary.per_term} target={target} expected={summary.fpr:.5f} "
        f"measured={wrong / possible:.5f}"
    )
    assert summary.fpr is not None
    assert summary.fpr <= target
    assert wrong / possible <= 1.5 * target


def test_describe(catalog: Any) -> None:
    summaries = {summary.field: summary for summary in catalog.layout.describe()}
    assert sum(summary.planes for summary in summaries.values()) == catalog.layout.rows
    assert (summaries["owner"].kind, summaries["owner"].rows, summaries["owner"].per_term) == ("hashed", 15, 3)
    assert (summaries["color"].kind, summaries["color"].rows) == ("exact", 15)
    assert summaries["year"] == ("year", "sliced", 9, None, None, None)
    assert summaries["nsfw"].planes == 2


def test_a_target_must_be_a_rate() -> None:
    with pytest.raises(ValueError, match="target_fpr"):
        laid_out(pa.array(["a"]), "type: category", 0.0)
