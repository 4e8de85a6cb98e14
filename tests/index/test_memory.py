"""What a shard takes is known before it is loaded, and refused where it does not fit."""

import gc
from collections.abc import Sequence

import pytest
import torch

from silverray.kernels.rows import row_bytes
from silverray.shard.api import ShardTooLarge
from silverray.shard.engine.engine import Engine
from silverray.shard.index import placement as placements
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.loader import LoadedPartitions, load_partitions
from silverray.shard.index.memory import SCRATCH_BYTES, MemoryPlan, format_bytes
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles

CPU = torch.device("cpu")
CENTROIDS = ("centroids", "centroid_codes", "centroid_scales", "sizes", "offsets")
GIB = 1 << 30


def plan(catalog: Catalog, device: str = "cuda", item_cache: ItemCache = "device") -> MemoryPlan:
    files = SnapshotFiles.open(catalog.path)
    return MemoryPlan.of(files, catalog, range(catalog.partitions), Placement(torch.device(device), item_cache))


def load(catalog: Catalog, partitions: Sequence[int], placement: Placement, free: int = 1 << 40) -> LoadedPartitions:
    return load_partitions(SnapshotFiles.open(catalog.path), catalog, partitions, placement, lambda _: free)


def taken(lists: InvertedLists) -> dict[str, dict[str, int]]:
    """Bytes that lists take, by device and component."""
    sizes: dict[str, dict[str, int]] = {}
    arrays = [("centroids" if name in CENTROIDS else name, array) for name, array in lists.named_buffers()]
    columns = [tensor for column in lists.columns.fields.values() for tensor in column.to_tensors().values()]
    for name, array in arrays + [("columns", tensor) for tensor in columns]:
        place = sizes.setdefault(array.device.type, {})
        place[name] = place.get(name, 0) + array.untyped_storage().nbytes()
    return sizes


@pytest.mark.parametrize("partitions", [range(8), (5, 0, 3), (2,)])
@pytest.mark.parametrize("item_cache", ["device", "host"])
def test_lists_take_what_was_planned_to_the_byte(
    catalog: Catalog, partitions: Sequence[int], item_cache: ItemCache
) -> None:
    loaded = load(catalog, partitions, Placement(CPU, item_cache))
    planned = dict(loaded.memory.host)
    assert loaded.memory.device == {}
    assert planned.pop("payload") == pytest.approx(loaded.payload._table.nbytes, rel=0.2)
    assert planned.pop("lookup") == loaded.payload._index.bytes
    assert taken(loaded.lists) == {"cpu": planned}
    items = sum(catalog.partition_items[number] for number in partitions)
    assert (planned["codes"], planned["vectors"], planned["keys"]) == (64 * items, 64 * items, 8 * items)


def test_an_item_cache_on_the_host_is_pinned_and_the_rest_is_on_the_device(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: dict[int, int] = {}
    monkeypatch.setattr(placements, "pin_memory", pinned.__setitem__)
    monkeypatch.setattr(placements, "unpin_memory", pinned.pop)
    loaded = load(catalog, range(8), Placement(torch.device("meta"), "host"))
    planned = dict(loaded.memory.host)
    del planned["payload"], planned["lookup"]
    assert list(planned) == ["vectors"]
    assert taken(loaded.lists) == {"cpu": planned, "meta": loaded.memory.device}
    assert pinned == {loaded.lists.vectors.untyped_storage().data_ptr(): planned["vectors"]}
    truth = load(catalog, range(8), Placement(CPU))
    assert torch.equal(loaded.lists.vectors, truth.lists.vectors)
    del loaded
    gc.collect()
    assert pinned == {}


def test_an_item_cache_on_the_device_leaves_the_payload_on_the_host(catalog: Catalog) -> None:
    loaded = load(catalog, range(8), Placement(torch.device("meta")))
    assert taken(loaded.lists) == {"meta": loaded.memory.device}
    assert list(loaded.memory.host) == ["payload", "lookup"]


@pytest.mark.parametrize("partitions", [range(8), (5, 0, 3), (2,)])
@pytest.mark.parametrize("slack", [0.0, 0.1, 1.0])
def test_slack_is_planned_to_the_byte(catalog: Catalog, partitions: Sequence[int], slack: float) -> None:
    files = SnapshotFiles.open(catalog.path)
    loaded = load_partitions(files, catalog, partitions, Placement(CPU), lambda _: 1 << 40, slack)
    planned, lists = dict(loaded.memory.host), loaded.lists
    items = sum(catalog.partition_items[number] for number in partitions)
    assert loaded.memory.slots == len(lists) == items + int(items * slack) + 8 * 64
    assert (lists.items, loaded.memory.items) == (items, items)
    assert int(lists.offsets.diff().min()) >= 8
    compaction = planned.pop("compaction")
    assert compaction == sum(planned.values()) + 16 * items + len(lists)
    assert planned.pop("lookup") == loaded.payload._index.bytes
    del planned["payload"]
    assert taken(lists) == {"cpu": planned}
    free = lists.keys < 0
    assert int((~free).sum()) == items
    live = unpack_bits(lists.planes[:1])[0, : len(lists)].bool()
    assert torch.equal(live, ~free)
    assert not lists.vectors[free].any() and not lists.codes[free].any() and not lists.scales[free].any()
    assert not unpack_bits(lists.planes)[:, : len(lists)][:, free].any()


def test_a_device_that_takes_updates_needs_room_for_a_second_copy(catalog: Catalog) -> None:
    files, placement = SnapshotFiles.open(catalog.path), Placement(torch.device("cuda"))
    device = dict(MemoryPlan.of(files, catalog, range(8), placement, 0.1).device)
    assert device.pop("compaction") == sum(device.values()) > sum(plan(catalog).device.values())


def unpack_bits(planes: torch.Tensor) -> torch.Tensor:
    return (planes[:, :, None] >> torch.arange(64) & 1).flatten(1)


def test_rows_are_padded_in_host_memory_only(catalog: Catalog) -> None:
    assert plan(catalog).device["codes"] == 16 * 3_000
    assert plan(catalog, "cpu").host["codes"] == row_bytes(16, torch.int8) * 3_000 == 64 * 3_000


def test_what_fits_a_card_leaves_room_for_scratch(catalog: Catalog) -> None:
    whole, hosted = plan(catalog), plan(catalog, item_cache="host")
    each = (sum(whole.device.values()) - whole.device["centroids"]) / 3_000
    assert sum(whole.per_item()["device"].values()) == pytest.approx(each + whole.device["centroids"] / 3_000)
    room = 80 * GIB - SCRATCH_BYTES - whole.device["centroids"]
    assert whole.fits(80 * GIB) == int(room / each)
    assert hosted.fits(80 * GIB) == int(room / (each - 64))
    assert whole.fits(SCRATCH_BYTES) == 0
    assert whole.fits(SCRATCH_BYTES + sum(whole.device.values())) == 3_000


def test_a_shard_that_does_not_fit_is_refused_before_it_is_read(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = plan(catalog, "cpu")
    total = sum(need.host.values()) + need.loading

    def refuse(*_: object) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(SnapshotFiles, "read", refuse)
    with pytest.raises(ShardTooLarge) as caught:
        load(catalog, range(8), Placement(CPU), free=total - 1)
    message = str(caught.value)
    assert message.startswith(f"shard needs {format_bytes(total)} in host memory (loading {need.loading / 2**20:.1f}, ")
    assert all(f"{name} {size / 2**20:.1f}" in message for name, size in need.host.items())
    assert message.endswith(f"), {format_bytes(total - 1)} are free; use more shards on more machines")
    with pytest.raises(AssertionError, match="read"):
        load(catalog, range(8), Placement(CPU), free=total)


@pytest.mark.parametrize(
    ("item_cache", "device", "host", "message"),
    [
        (
            "device",
            {"codes": 41 * GIB // 10, "planes": GIB // 5, "vectors": 8 * GIB},
            {"payload": GIB},
            "shard needs 14.3 GiB on the device (vectors 8.0, codes 4.1, scratch 2.0, planes 0.2), 7.9 GiB are free; "
            "use more shards or item_cache: host",
        ),
        (
            "host",
            {"codes": 6 * GIB, "planes": GIB},
            {"payload": GIB, "vectors": GIB},
            "shard needs 9.0 GiB on the device (codes 6.0, scratch 2.0, planes 1.0), 7.9 GiB are free; use more shards",
        ),
        (
            "host",
            {"codes": 4 * GIB},
            {"payload": GIB, "vectors": 8 * GIB},
            "shard needs 13.0 GiB in host memory (vectors 8.0, loading 4.0, payload 1.0), 7.9 GiB are free; "
            "use more shards on more machines",
        ),
    ],
)
def test_a_refusal_has_the_numbers_and_what_to_do(
    item_cache: ItemCache, device: dict[str, int], host: dict[str, int], message: str
) -> None:
    need = MemoryPlan(Placement(torch.device("cuda"), item_cache), 1, 1, device, host, loading=4 * GIB)
    with pytest.raises(ShardTooLarge) as caught:
        need.require(lambda _: 79 * GIB // 10)
    assert str(caught.value) == message
    need.require(lambda _: 15 * GIB)


def test_an_engine_accepts_either_place_on_a_cpu_and_says_what_it_takes(catalog: Catalog) -> None:
    engines = [Engine.open(catalog.path, (1,), device="cpu", item_cache=cache) for cache in ("device", "host")]
    host, other = (engine.memory.host for engine in engines)
    assert host == other
    assert host["keys"] == 8 * engines[0].items
