"""Writes folded into rows leave what a dictionary holds, and what a shard that followed them serves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from catalogs import DIMENSION, make_items, schema_text
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PATIENCE_S

from silverray.shard.live.fold import Folded, fold
from silverray.shard.live.outcome import Outcome
from silverray.shard.live.writes import Delete, Entry, Patch, Upsert, Write
from silverray.shard.publish.builder import publish
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Schema
from silverray.shard.schema.vectors import to_unit_length
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

from .world import World, random_fields, random_patch, random_vector

SCHEMA = Schema.parse(schema_text())
ITEMS = 40
BAD: list[dict[str, Any]] = [{"rank": "high"}, {"live_show": 3}, {"country": "FR", "rank": None}, {"released": "soon"}]


def narrow(table: pa.Table) -> pa.Table:
    """The same values in types that do not hold all that may be written."""
    types = {"id": pa.int32(), "year": pa.int16(), "country": pa.dictionary(pa.int8(), pa.string())}
    types |= {"released": pa.date64()}
    for name, type_ in types.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(type_))
    return table.append_column("not in the schema", pa.nulls(len(table)))


def random_writes(rng: np.random.Generator, count: int, ids: Sequence[int]) -> list[Write]:
    """Writes of every kind, some of another space, some that the schema does not take."""
    writes: list[Write] = []
    for _ in range(count):
        id_, fields = int(rng.choice(ids)), random_fields(rng)
        bad = rng.random() < 0.15
        match rng.choice(["upsert", "elsewhere", "delete", "patch"], p=[0.4, 0.15, 0.15, 0.3]):
            case "delete":
                writes.append(Delete(id_))
            case "patch":
                writes.append(Patch(id_, {**random_patch(rng), **(BAD[rng.integers(len(BAD))] if bad else {})}))
            case kind:
                space = "there" if kind == "elsewhere" else rng.choice(["here", ""])
                given = {**fields, **(BAD[rng.integers(len(BAD))] if bad else {"gone": 1})}
                writes.append(Upsert(id_, random_vector(rng), given, str(space)))
    return writes


class Sequential(World):
    """What the same writes come to one by one, in the space "here" or "v1"."""

    def __init__(self, table: pa.Table, vectors: np.ndarray) -> None:
        super().__init__({row.pop("id"): row for row in table.to_pylist()} or {0: SCHEMA.fields}, [*vectors] or [None])
        if not len(table):
            self.write(Delete(0))

    def write(self, write: Write) -> None:
        fields = {} if isinstance(write, Delete) else write.fields
        if any(fields.items() >= bad.items() for bad in BAD):
            return
        known = {name: value for name, value in fields.items() if name in self.names}
        if isinstance(write, Upsert) and write.space == "there":
            super().write(Patch(write.id, dict.fromkeys(self.names) | known))
        else:
            super().write(write)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0, 1, ITEMS]))
def test_folding_is_writing_to_a_dictionary(seed: int, count: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    table, vectors = make_items(items, seed=3)
    world = Sequential(table, vectors)
    writes = random_writes(rng, count, [*table.column("id").to_pylist()[:15], 1_001, 1_002, 1_003])
    folded = fold(narrow(table), SCHEMA, vectors, writes, "here")
    for write in writes:
        world.write(write)
    assert folded.items.column_names == ["id", *SCHEMA.fields]
    rows = {row.pop("id"): row for row in folded.items.to_pylist()}
    assert rows == world.fields
    assert folded.vectors.dtype == np.float32
    for id_, vector in zip(folded.items.column("id").to_pylist(), folded.vectors, strict=True):
        assert vector.tobytes() == world.vectors[id_].tobytes()
    bad = sum(any(getattr(write, "fields", {}).items() >= some.items() for some in BAD) for write in writes)
    assert folded.outcome.refused == bad
    assert (folded.refusal is None) == (bad == 0)
    assert len(rows) == items + folded.outcome.inserted - folded.outcome.deleted


def test_what_writes_did_is_counted() -> None:
    table, vectors = make_items(6)
    a, b, c, d, e, f = table.column("id").to_pylist()
    fields, vector = random_fields(np.random.default_rng(0)), np.ones(DIMENSION, np.float32)
    writes: list[Write] = [
        Delete(a), Delete(a), Delete(1_000), Patch(1_001, {"rank": 1}), Patch(b, {"rank": 1}), Patch(b, {"rank": 2}),
        Upsert(c, vector, fields), Upsert(1_002, vector, fields), Patch(1_002, {"rank": 3}),
        Upsert(d, vector, fields, "there"), Upsert(1_003, vector, fields, "there"),
        Upsert(e, vector[1:], fields, "here"), Upsert("f", vector, fields),
    ]  # fmt: skip
    folded = fold(table, SCHEMA, vectors, writes, "here")
    assert folded.outcome == Outcome(
        inserted=1, replaced=1, patched=1, deleted=1, unknown=2, refused=2, fields_only=1, other_space=1
    )
    assert folded.refusal == "item 'f': id: expected int, got str"
    assert folded.items.column("id").to_pylist() == [b, c, d, e, f, 1_002]  # changed rows stay where they were
    assert folded.items.column("rank").to_pylist()[0] == 2 and folded.items.column("rank").to_pylist()[-1] == 3


def test_rows_that_could_not_be_published_are_not_folded() -> None:
    table, vectors = make_items(6)
    with pytest.raises(ValueError, match="column 'rank' is missing"):
        fold(table.drop_columns(["rank"]), SCHEMA, vectors, [], "here")
    text = table.set_column(table.column_names.index("rank"), "rank", table.column("rank").cast(pa.string()))
    with pytest.raises(ValueError, match="column rank: expected integers, got string"):
        fold(text, SCHEMA, vectors, [], "here")


def test_vectors_that_the_metric_cannot_compare_are_left_out(publish_items: Callable[..., Catalog]) -> None:
    """Of a day when the space's metric was the inner product: a served version refuses them as well."""
    catalog = publish_items(6, metric="cosine")
    table, vectors = make_items(6)
    a, b = table.column("id").to_pylist()[:2]
    fields, zero = random_fields(np.random.default_rng(0)), np.zeros(DIMENSION, np.float32)
    writes: list[Write] = [Upsert(a, zero, fields), Upsert(1_000, zero, fields), Patch(1_000, {"rank": 1}), Delete(b)]
    folded = fold(table, catalog.schema, vectors, writes, "v1")
    assert folded.outcome == Outcome(deleted=1, unknown=1, refused=2)
    assert folded.refusal == "item 1000: vector: a vector of zeros has no cosine"
    assert folded.vectors.any(axis=1).all()
    served = ShardSearcher.open(catalog.path, slack=0.1)
    served.apply([Entry(seq, write) for seq, write in enumerate(writes, 1)])
    assert served.updates is not None and served.updates.status().outcome == folded.outcome


def test_other_types_are_taken_where_a_client_might_send_them() -> None:
    """A version whose fields have other types than those of the day the writes were logged."""
    table, vectors = make_items(3)
    a, b, c = table.column("id").to_pylist()
    patches = [Patch(a, {"price": 3}), Patch(b, {"released": "2001-05-31", "price": 2.5}), Patch(c, {"rank": 2.0})]
    folded = fold(table, SCHEMA, vectors, patches, "here")
    rows = {row["id"]: row for row in folded.items.to_pylist()}
    assert rows[a]["price"] == 3.0 and rows[b]["released"] == date(2001, 5, 31)
    assert folded.outcome == Outcome(patched=2, refused=1)
    assert folded.refusal == f"item {c}: fields.rank: expected an integer of at most 64 bits, got number 2.0"


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("strings", [False, True])
def test_a_version_of_folded_rows_is_the_catalog_that_was_served(
    publish_items: Callable[..., Catalog], tmp_path: Path, metric: str, strings: bool
) -> None:
    made = publish_items(300, metric=metric, strings=strings, clusters=8)
    table, vectors = make_items(300, strings=strings)
    rng = np.random.default_rng(7)
    ids = [
        *table.column("id").to_pylist()[:100],
        *([f"new {n}" for n in range(30)] if strings else range(2_000, 2_030)),
    ]
    writes = [
        replace(write, id=ids[place]) for write in random_writes(rng, 400, range(130)) for place in [int(write.id)]
    ]
    writes = [replace(w, space=w.space.replace("here", "v1")) if isinstance(w, Upsert) else w for w in writes]
    if metric == "cosine":
        writes = [replace(w, vector=to_unit_length(w.vector[None])[0]) if isinstance(w, Upsert) else w for w in writes]
    schema = Schema.parse(schema_text(metric))
    folded = fold(table, schema, vectors, writes, "v1")
    new = publish(folded.items, schema, tmp_path, vectors=folded.vectors, partitions=8, version="v2", seq=400)
    live = ShardSearcher.open(made.path, slack=0.1)
    live.apply([Entry(number, write) for number, write in enumerate(writes, 1)])
    assert contents(live) == contents(ShardSearcher.open(new.path, slack=0.1))
    assert live.updates is not None
    live.updates.close()


def contents(searcher: ShardSearcher) -> dict[int, Any]:
    """All that is stored of the items, by key."""
    lists, payload = searcher.engine.model.lists, searcher.engine.payload
    slots = np.flatnonzero(payload.slot_keys >= 0)
    fields = payload.fields(payload.names, slots)
    vectors = lists.vectors.numpy()[slots]
    return {
        key: (vector.tobytes(), {name: values[place] for name, values in fields.items()})
        for place, (key, vector) in enumerate(zip(payload.slot_keys[slots].tolist(), vectors, strict=True))
    }


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ids that begin with `~` have the keys of the ids behind it."""
    for name in ("schema.keys", "live.changes"):
        monkeypatch.setattr(f"silverray.shard.{name}.hash_text", lambda text: hash_text(text.removeprefix("~")))
    yield


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize("together", [1, 3, 200])
def test_writes_to_ids_that_share_a_key_go_to_the_one_that_is_there(
    publish_items: Callable[..., Catalog], together: int
) -> None:
    made = publish_items(60, strings=True, clusters=4)
    table, vectors = make_items(60, strings=True)
    world = Sequential(table, vectors)
    names = table.column("id").to_pylist()[:6]
    rng = np.random.default_rng(1)
    writes, collisions = [], 0
    for write in random_writes(rng, 200, range(12)):
        number = int(write.id)
        id_ = f"{'~' if number % 2 else ''}{names[number // 2]}"
        write = replace(write, id=id_, space="v1") if isinstance(write, Upsert) else replace(write, id=id_)
        writes.append(write)
        twin = id_[1:] if number % 2 else f"~{id_}"
        if twin in world.fields:
            collisions += 1
        else:
            world.write(write)
    folded = fold(table, made.schema, vectors, writes, "v1")
    assert {row.pop("id"): row for row in folded.items.to_pylist()} == world.fields
    live = ShardSearcher.open(made.path, slack=0.1)
    entries = [Entry(number, write) for number, write in enumerate(writes, 1)]
    for start in range(0, len(entries), together):
        live.apply(entries[start : start + together])
    assert live.updates is not None
    wanted = {
        hash_text(id_.removeprefix("~")): (
            world.vectors[id_].tobytes(),
            {"id": id_, **fields, "released": fields["released"] and fields["released"].isoformat()},
        )
        for id_, fields in world.fields.items()
    }
    for _ in range(2):
        assert contents(live) == wanted
        live.updates.compact().result(PATIENCE_S)
    outcome = live.updates.status().outcome
    assert 0 < outcome.key_collision <= collisions and 0 < folded.outcome.key_collision <= collisions
    live.updates.close()


def test_folding_none_is_publishing_what_was_given() -> None:
    table, vectors = make_items(20)
    folded = fold(table.append_column("vector", pa.array(list(vectors))), SCHEMA, None, [], "here")
    assert folded.items.to_pylist() == table.to_pylist()
    assert folded.vectors.tobytes() == vectors.tobytes()
    assert folded[2:] == Folded(table, vectors, Outcome(), None)[2:]


def test_rows_of_newer_types_are_folded() -> None:
    fields = "{c: {type: category, filter: false}, n: {type: float}, d: {type: date, filter: false}, b: {type: bool}}"
    schema = Schema.parse(f"{{id: id, vector: {{dimension: 2, metric: ip}}, fields: {fields}}}")
    views = pa.array(["a", "b", "c"]).cast(pa.string_view())
    table = pa.table(
        {
            "id": views,
            "c": pa.DictionaryArray.from_arrays(pa.array([2, 1, 0]), views),
            "n": pa.array([1, 2, 3], pa.uint64()),
            "d": pa.array([0, 86_400, -86_400]).cast(pa.timestamp("s")),
            "b": pa.array([0, 1, 1], pa.int8()),
            "vector": pa.array([[1, 2]] * 3, pa.list_view(pa.int32())),
        }
    )
    writes: list[Write] = [Patch("b", {"c": "new", "n": 2.5}), Delete("a")]
    found = fold(table, schema, None, writes, "here")
    assert found.outcome == Outcome(patched=1, deleted=1)
    assert found.items.to_pydict() == {
        "id": ["b", "c"],
        "c": ["new", "a"],
        "n": [2.5, 3.0],
        "d": [date(1970, 1, 2), date(1969, 12, 31)],
        "b": [True, True],
    }
