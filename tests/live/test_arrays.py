"""What writes leave in a shard's arrays: the bits that publishing would have left."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from catalogs import make_items

from silverray.kernels.bits import read_bits
from silverray.kernels.codes import quantize_rows
from silverray.shard.engine.engine import Engine
from silverray.shard.index.key_index import FREE
from silverray.shard.live.adapting import FieldsOnly
from silverray.shard.live.arrays import LiveArrays
from silverray.shard.live.changes import Changes, key_of, merge, runs
from silverray.shard.live.compaction import Still, compact
from silverray.shard.live.outcome import Outcome
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.snapshot.catalog import Catalog

N, CLUSTERS = 400, 10


@pytest.fixture(scope="module")
def made(publish_items: Callable[..., Catalog]) -> Catalog:
    return publish_items(N, clusters=CLUSTERS)


def opened(catalog: Catalog) -> LiveArrays:
    return LiveArrays(Engine.open(catalog.path, slack=0.1).index, catalog)


def write(live: LiveArrays, catalog: Catalog, *writes: Write) -> Outcome:
    planned = live.plan(Changes.of(merge((key_of(one.id), one) for one in writes), catalog))
    live.apply(planned.edit)
    return planned.outcome


def published_items() -> list[Upsert]:
    table, vectors = make_items(N)
    rows = table.to_pylist()
    return [Upsert(row.pop("id"), vector, row) for row, vector in zip(rows, vectors, strict=True)]


def shown(live: LiveArrays, slots: np.ndarray) -> dict[str, list[object]]:
    return live.payload.fields(live.payload.names, slots)


def slots_of(live: LiveArrays, *ids: int) -> np.ndarray:
    return live.slots.find(np.array(ids))


def bits_of(live: LiveArrays, slots: np.ndarray) -> torch.Tensor:
    """`[R, m]` bool."""
    planes = live.lists.planes
    return read_bits(planes, torch.arange(len(planes))[:, None], torch.from_numpy(slots))


def test_items_written_as_they_were_published_leave_every_array_as_it_was(made: Catalog) -> None:
    live, before = opened(made), opened(made)
    outcome = write(live, made, *published_items())
    assert outcome == Outcome(replaced=N)
    assert live.slots.find(live.payload.slot_keys).tolist() == before.slots.find(before.payload.slot_keys).tolist()
    for (name, array), (_, wanted) in zip(live.lists.named_buffers(), before.lists.named_buffers(), strict=True):
        assert torch.equal(array, wanted), name
    slots = torch.from_numpy(np.flatnonzero(live.payload.slot_keys != FREE))
    for name, column in live.lists.columns.take(slots).fields.items():
        for part, tensor in column.to_tensors().items():
            wanted = before.lists.columns.take(slots).fields[name].to_tensors()[part]
            assert torch.equal(tensor, wanted), (name, part)
    assert shown(live, slots.numpy()) == shown(before, slots.numpy())


def test_patches_that_change_nothing_change_nothing(made: Catalog) -> None:
    live, before = opened(made), opened(made)
    patches = [Patch(item.id, {name: item.fields[name] for name in ("tags", "price")}) for item in published_items()]
    assert write(live, made, *patches) == Outcome(patched=N)
    assert torch.equal(live.lists.planes, before.lists.planes)
    slots = torch.from_numpy(np.flatnonzero(live.payload.slot_keys != FREE))
    for name, column in live.lists.columns.take(slots).fields.items():
        for part, tensor in column.to_tensors().items():
            assert torch.equal(tensor, before.lists.columns.take(slots).fields[name].to_tensors()[part]), (name, part)


def test_a_free_slot_has_no_bit_set_and_is_used_again(made: Catalog) -> None:
    live = opened(made)
    item = published_items()[7]
    (slot,) = slots_of(live, int(item.id))
    free = live.slots.free
    assert write(live, made, Delete(item.id)) == Outcome(deleted=1)
    assert (live.slots.free, live.lists.items) == (free + 1, N - 1)
    assert not bits_of(live, np.array([slot])).any()
    assert live.lists.keys[slot] == FREE
    assert slots_of(live, int(item.id)).tolist() == [FREE]
    other = Upsert(5_000, item.vector, item.fields)
    assert write(live, made, other) == Outcome(inserted=1)
    assert slots_of(live, 5_000).tolist() == [slot]


def test_items_that_come_and_go_leave_nothing_behind(made: Catalog) -> None:
    live = opened(made)
    item, free = published_items()[7], live.slots.free
    for number in range(5_000, 5_050):
        assert write(live, made, Upsert(number, item.vector, item.fields)) == Outcome(inserted=1)
        assert write(live, made, Delete(number)) == Outcome(deleted=1)
    for index in (live.slots._index, live.payload._index):
        assert not index._moved
    assert (live.slots.free, live.lists.items, live.payload.written) == (free, N, 0)
    assert slots_of(live, *range(5_000, 5_050)).tolist() == [FREE] * 50


def test_a_plan_that_fails_changes_nothing(made: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step of it fails: the same writes come again, and each item is there once."""
    live, items = opened(made), published_items()
    moved, gone = items[0], items[1]
    room = int(live.slots.room[live.slots.clusters(slots_of(live, int(gone.id)))[0]])
    crowd = [Upsert(5_000 + number, gone.vector, gone.fields) for number in range(room + 3)]
    write(live, made, *crowd)
    assert live.slots.strays
    changed = replace(moved, vector=-3 * moved.vector, fields={**moved.fields, "tags": [f"tag {n}" for n in range(9)]})
    writes: list[Write] = [changed, Delete(gone.id), Delete(5_000 + room), Upsert(9_000, moved.vector, moved.fields)]
    everyone = [int(write.id) for write in [*items, *crowd, *writes]]
    before = slots_of(live, *everyone), live.slots.room.tolist(), live.slots.free, dict(live._tag_ends)
    for step in ("silverray.shard.live.arrays.quantize_rows", "silverray.shard.live.arrays.PlaneEdit.of"):
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(step, fail)
            write(live, made, *writes)
        after = slots_of(live, *everyone), live.slots.room.tolist(), live.slots.free, dict(live._tag_ends)
        np.testing.assert_equal(after, before)
    assert write(live, made, *writes) == Outcome(inserted=1, replaced=1, deleted=2)
    keys = live.payload.slot_keys[live.payload.slot_keys != FREE].tolist()
    assert sorted(keys) == sorted({*everyone} - {gone.id, 5_000 + room})
    strays = slots_of(live, 5_000 + room + 1, 5_000 + room + 2).tolist()
    assert live.slots.strays.keys() == {*strays}


def fail(*_: object) -> None:
    raise MemoryError("no room")


def test_an_item_that_finds_no_room_goes_to_the_next_nearest_cluster_until_compaction(made: Catalog) -> None:
    live = opened(made)
    item = published_items()[0]
    (home,) = live.slots.clusters(slots_of(live, int(item.id)))
    room = int(live.slots.room[home])
    crowd = [Upsert(5_000 + number, item.vector, item.fields) for number in range(room + 3)]
    write(live, made, *crowd)
    slots = slots_of(live, *range(5_000, 5_000 + room + 3))
    clusters = live.slots.clusters(slots)
    assert (clusters[:room] == home).all() and (clusters[room:] != home).all()
    assert live.slots.strays == dict.fromkeys(slots[room:].tolist(), home)
    half_norms = live.lists.centroids.square().sum(1) / 2
    order = (half_norms - live.lists.centroids @ torch.from_numpy(item.vector)).argsort()
    assert (clusters[room:] == int(order[1])).all()
    coded = quantize_rows(torch.from_numpy(item.vector) - live.lists.centroids[torch.from_numpy(clusters)])
    assert torch.equal(live.lists.codes[torch.from_numpy(slots)], coded.values)
    new = LiveArrays(compact(live, Still.of(live), 0.1), made)
    assert not new.slots.strays
    slots = slots_of(new, *range(5_000, 5_000 + room + 3))
    assert (new.slots.clusters(slots) == home).all()
    coded = quantize_rows((torch.from_numpy(item.vector) - live.lists.centroids[home]).expand(len(slots), -1))
    assert torch.equal(new.lists.codes[torch.from_numpy(slots)], coded.values)
    assert torch.equal(new.lists.scales[torch.from_numpy(slots)], coded.scales)


def test_compaction_leaves_what_loading_would(made: Catalog) -> None:
    live = opened(made)
    new = compact(live, Still.of(live), 0.1).loaded
    for (name, array), (_, wanted) in zip(new.lists.named_buffers(), live.lists.named_buffers(), strict=True):
        assert torch.equal(array, wanted), name
    assert new.payload._table.equals(live.payload._table)


def test_what_was_written_stays_through_compaction(made: Catalog) -> None:
    live = opened(made)
    item = published_items()[3]
    fields = {**item.fields, "tags": ["new", "tags", "three"], "title": "another", "country": None}
    write(
        live, made, Upsert(9_000, item.vector, fields), Delete(item.id), Patch(published_items()[4].id, {"year": None})
    )
    new = LiveArrays(compact(live, Still.of(live), 0.1), made)
    ids = [9_000, int(published_items()[4].id), int(item.id)]
    (old_slots, slots) = slots_of(live, *ids), slots_of(new, *ids)
    assert slots[2] == old_slots[2] == FREE
    assert new.payload.written == 0 and live.payload.written == 2
    assert shown(new, slots[:2]) == shown(live, old_slots[:2])
    assert new.payload.fields(["title", "country"], slots[:1]) == {"title": ["another"], "country": [None]}
    assert torch.equal(bits_of(new, slots[:2]), bits_of(live, old_slots[:2]))
    columns = [one.lists.columns.take(torch.from_numpy(its[:2])) for one, its in ((new, slots), (live, old_slots))]
    for name in columns[0].fields:
        mine, its = (part.fields[name].to_tensors() for part in columns)
        assert all(torch.equal(mine[part], its[part]) for part in its), name


def test_tags_find_room_when_there_is_none_left(made: Catalog) -> None:
    live = opened(made)
    ids = [item.id for item in published_items()[:5]]
    many = [f"tag {number}" for number in range(1_000)]
    for turn in range(12):
        write(live, made, *(Patch(id_, {"tags": [*many, f"turn {turn}"]}) for id_ in ids))
    assert live.tags_scattered
    column = live.lists.columns.fields["tags"]
    found = column.take(torch.from_numpy(slots_of(live, *map(int, ids))))
    assert found.offsets is not None and found.offsets.diff().tolist() == [1_001] * 5
    assert not LiveArrays(compact(live, Still.of(live), 0.1), made).tags_scattered


def test_writes_to_one_item_merge_into_the_last_word() -> None:
    vector = np.zeros(2, np.float32)

    def left(*writes: Write) -> list[Write]:
        return list(merge((1, write) for write in writes).values())

    upsert, patch, delete = Upsert(1, vector, {"a": 1}), Patch(1, {"b": 2}), Delete(1)
    assert left(upsert, patch)[0] == Upsert(1, vector, {"a": 1, "b": 2})
    assert left(patch, Patch(1, {"b": None, "c": 3})) == [Patch(1, {"b": None, "c": 3})]
    assert left(upsert, delete, patch) == [delete]
    assert left(delete, upsert) == [upsert]
    assert left(patch, delete) == [delete]
    elsewhere = FieldsOnly(1, {"a": 5, "b": None})
    assert left(elsewhere) == [elsewhere]
    assert left(upsert, elsewhere)[0] == Upsert(1, vector, {"a": 5, "b": None})
    assert left(patch, elsewhere) == left(elsewhere, Patch(1, {"b": None})) == [elsewhere]
    assert left(elsewhere, upsert) == [upsert]
    assert left(delete, elsewhere) == [delete]


def test_runs_end_where_a_key_comes_under_another_id() -> None:
    a, b, c = Delete("a"), Delete("b"), Delete("c")
    assert list(runs([])) == []
    assert list(runs([(1, a), (2, b), (1, a)])) == [[(1, a), (2, b), (1, a)]]
    assert list(runs([(1, a), (2, b), (1, c), (2, b), (1, a)])) == [[(1, a), (2, b)], [(1, c), (2, b)], [(1, a)]]


def test_an_id_with_the_key_of_another_is_refused(
    publish_items: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = publish_items(50, strings=True, clusters=4)
    live = opened(catalog)
    (text,) = live.payload.ids(np.flatnonzero(live.payload.slot_keys != FREE)[:1])
    real = live.slots
    key = int(live.payload.slot_keys[live.payload.slot_keys != FREE][0])
    monkeypatch.setattr("silverray.shard.live.changes.hash_text", lambda _: key)
    for other in (Delete("another"), Patch("another", {"live_show": True})):
        assert write(live, catalog, other) == Outcome(key_collision=1)
    assert write(live, catalog, Delete(str(text))) == Outcome(deleted=1)
    assert real.find(np.array([key])).tolist() == [FREE]
