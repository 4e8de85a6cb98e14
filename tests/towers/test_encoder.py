import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from processes import PATIENCE_S

from silverray.shard.api import EncoderUnavailable, InvalidRequest, SnapshotError
from silverray.shard.schema.keys import hash_texts
from silverray.shard.schema.user_features import (
    BucketFeature,
    CategoryFeature,
    HashFeature,
    HistoryFeature,
    UserFeatures,
    category_from,
)
from silverray.shard.towers.encoder import TowerEncoder, save_model
from silverray.shard.towers.ids import HashedIds
from silverray.shard.towers.table import Table
from silverray.shard.towers.tables import keyed_jagged
from silverray.shard.towers.towers import TowerShape, UserTower

FEATURES = UserFeatures(
    "history",
    HistoryFeature("int", length=3),
    {"age": BucketFeature((18, 25)), "gender": CategoryFeature(("F", "M"), required=True)},
)
ITEM_KEYS = np.array([100, 200, 300, 400, 500])
SHAPE = TowerShape(
    (
        Table("user-history", 6, 8, ("history",), "mean"),
        Table("user-age", 4, 4, ("age",), "mean"),
        Table("user-gender", 3, 4, ("gender",), "mean"),
    ),
    hidden=16,
    dimension=6,
    tasks=2,
)
TASKS = {"click": 0, "like": 1}


def make_tower(history: str = "history", rows: int = 6) -> UserTower:
    torch.manual_seed(0)
    first = replace(SHAPE.tables[0], rows=rows, features=(history,))
    return UserTower(replace(SHAPE, tables=(first, *SHAPE.tables[1:])))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", make_tower(), FEATURES, ITEM_KEYS, TASKS)
    return tmp_path / "model"


@pytest.fixture
def encoder(model_dir: Path) -> Iterator[TowerEncoder]:
    encoder = TowerEncoder.load(model_dir)
    yield encoder
    encoder.close()


def encode(encoder: TowerEncoder, *users: dict[str, Any]) -> NDArray[np.float32]:
    return asyncio.run(encoder.encode(users))


def expected(history: list[int], age: int, gender: int, tower: UserTower | None = None) -> NDArray[np.float32]:
    tower = tower or make_tower()
    one = torch.tensor([1])
    columns = {
        tower.shape.features[0]: (torch.tensor(history, dtype=torch.long), torch.tensor([len(history)])),
        "age": (torch.tensor([age]), one),
        "gender": (torch.tensor([gender]), one),
    }
    with torch.inference_mode():
        vectors: NDArray[np.float32] = tower(keyed_jagged(columns)).numpy()
    return vectors


@pytest.mark.parametrize(
    ("user", "inputs"),
    [
        ({"history": [100, 300], "age": 30, "gender": "M"}, ([1, 3], 3, 2)),
        ({"history": [], "age": 18, "gender": "F"}, ([], 2, 1)),
        ({"history": [100, 200, 300, 400, 500], "age": 17.9, "gender": "M"}, ([3, 4, 5], 1, 2)),
        ({"history": [100, 200, 300, 7, 8, 10**30, -1], "gender": "M"}, ([1, 2, 3], 0, 2)),
        ({"history": [500], "age": None, "gender": "other"}, ([5], 0, 0)),
        ({"history": (500, 500), "age": 10**400, "gender": "F"}, ([5, 5], 3, 1)),
    ],
    ids=["plain", "empty history", "latest three", "unknown items skipped", "unknown values", "huge number"],
)
def test_features_become_the_towers_inputs(
    encoder: TowerEncoder, user: dict[str, Any], inputs: tuple[list[int], int, int]
) -> None:
    vectors = encode(encoder, user)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(*inputs), atol=1e-6)


def test_users_of_a_batch_keep_their_order(encoder: TowerEncoder) -> None:
    vectors = encode(encoder, {"history": [100], "gender": "F"}, {"history": [200], "gender": "M"})
    assert vectors.shape == (2, 2, 6)
    np.testing.assert_allclose(vectors, np.concatenate([expected([1], 0, 1), expected([2], 0, 2)]), atol=1e-6)
    assert encode(encoder).shape == (0, 2, 6)


@pytest.mark.parametrize(
    ("user", "where", "message"),
    [
        ({"history": []}, "gender", "required feature 'gender' is missing"),
        ({"gender": "F"}, "history", "required feature 'history' is missing"),
        ({"gender": None, "history": []}, "gender", "required feature 'gender' is missing"),
        ({"gender": 1, "history": []}, "gender", "expected a string, got an integer"),
        ({"gender": "F", "history": "100"}, "history", "expected an array of item ids, got a string"),
        ({"gender": "F", "history": [100, "7"]}, "history", "got a string at place 1"),
        ({"gender": "F", "history": [True]}, "history", "got a boolean at place 0"),
        ({"gender": "F", "history": [100.0]}, "history", "got a number at place 0"),
        ({"gender": "F", "history": [], "age": "30"}, "age", "expected a number, got a string"),
        ({"gender": "F", "history": [], "age": False}, "age", "expected a number, got a boolean"),
        ({"gender": "F", "history": [], "age": float("nan")}, "age", "expected a finite number, got nan"),
        ({"gender": "F", "history": [], "age": [30]}, "age", "expected a number, got an array"),
    ],
)
def test_wrong_features_are_named(encoder: TowerEncoder, user: dict[str, Any], where: str, message: str) -> None:
    good = {"history": [100], "gender": "F", "extra": 1}
    with pytest.raises(InvalidRequest) as caught:
        encode(encoder, good, user)
    assert caught.value.where == f"user[1].{where}"
    assert message in caught.value.message
    np.testing.assert_allclose(encode(encoder, good), expected([1], 0, 1), atol=1e-6)


def test_unknown_features_change_nothing(encoder: TowerEncoder) -> None:
    user = {"history": [100], "gender": "F"}
    vectors = encode(encoder, {**user, "country": "US"}, {**user, "country": 3})
    np.testing.assert_allclose(vectors, np.repeat(expected([1], 0, 1), 2, axis=0), atol=1e-6)


def test_string_ids(tmp_path: Path) -> None:
    features = UserFeatures("seen", HistoryFeature("string", length=3, required=False), FEATURES.categories)
    tower = make_tower("seen")
    save_model(tmp_path, tower, features, hash_texts(["a", "b", "c", "d", "é"]), TASKS)
    encoder = TowerEncoder.load(tmp_path)
    vectors = encode(encoder, {"seen": ["é", "x", "b"], "gender": "F"}, {"gender": "F"})
    wanted = np.vstack([expected([5, 2], 0, 1, tower), expected([], 0, 1, tower)])
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    with pytest.raises(InvalidRequest, match=r"user\[0\]\.seen: .*string item ids, got an integer"):
        encode(encoder, {"seen": [1], "gender": "F"})
    with pytest.raises(InvalidRequest, match=r"user\[0\]\.seen"):
        encode(encoder, {"seen": ["\ud800"], "gender": "F"})
    encoder.close()


def test_hashed_item_ids(tmp_path: Path) -> None:
    hashed = HashedIds(7)
    tower = make_tower(rows=8)
    save_model(tmp_path, tower, FEATURES, hashed, TASKS)
    encoder = TowerEncoder.load(tmp_path)
    rows = hashed.rows(np.array([100, 31, -5])).tolist()
    vectors = encode(encoder, {"history": [100, 31, 2**63, -5], "gender": "F"})
    np.testing.assert_allclose(vectors, expected(rows, 0, 1, tower), atol=1e-6)
    encoder.close()


def test_a_hashed_id_that_is_too_long_is_refused() -> None:
    assert 1 <= HashFeature("int", 10).code(2**63 - 1) <= 10
    with pytest.raises(TypeError, match="an integer of 64 bits, got a longer one"):
        HashFeature("int", 10).check(10**5_000)


def test_some_tasks_can_be_left_out(tmp_path: Path, encoder: TowerEncoder) -> None:
    save_model(tmp_path, make_tower(), FEATURES, ITEM_KEYS, {"like": 1})
    user = {"history": [100], "gender": "F"}
    one = TowerEncoder.load(tmp_path)
    assert one.tasks == ("like",)
    np.testing.assert_allclose(encode(one, user), encode(encoder, user)[:, 1:], atol=1e-6)
    one.close()


class Elsewhere:
    """A `Lookup` that another test answers for."""

    def __init__(self, answer: torch.Tensor | Exception) -> None:
        self.answer = answer
        self.asked: list[dict[str, list[int]]] = []

    async def look_up(self, features: Any) -> torch.Tensor:
        self.asked.append({name: lists.values().tolist() for name, lists in features.to_dict().items()})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_tables_can_be_elsewhere(model_dir: Path) -> None:
    for file in (model_dir / "tables").glob("*.safetensors"):
        file.unlink()
    tables = Elsewhere(torch.ones(1, SHAPE.width))
    encoder = TowerEncoder.load(model_dir, tables)
    vectors = encode(encoder, {"history": [300, 7, 100], "gender": "M"})
    assert tables.asked == [{"history": [3, 1], "age": [0], "gender": [2]}]
    with torch.inference_mode():
        np.testing.assert_allclose(vectors, make_tower().encode(torch.ones(1, SHAPE.width)).numpy(), atol=1e-6)
    tables.answer = EncoderUnavailable("re-forming")
    with pytest.raises(EncoderUnavailable, match="re-forming"):
        encode(encoder, {"history": [300], "gender": "M"})
    encoder.close()


def test_features_are_read_and_dense_layers_run_off_the_event_loop(
    encoder: TowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> bool:
        loop = asyncio.get_running_loop()

        def while_the_loop_runs(work: Any) -> Any:
            def waiting(*inputs: Any) -> Any:
                # Ends with the time-out unless the loop is free to answer.
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(timeout=PATIENCE_S)
                return work(*inputs)

            return waiting

        monkeypatch.setattr(encoder, "_ids", while_the_loop_runs(encoder._ids))
        monkeypatch.setattr(encoder.layers, "forward", while_the_loop_runs(encoder.layers.forward))
        vectors = await encoder.encode([{"history": [100], "gender": "F"}])
        np.testing.assert_allclose(vectors, expected([1], 0, 1), atol=1e-6)
        return True

    assert asyncio.run(ask())


def test_a_model_describes_itself(model_dir: Path) -> None:
    info = json.loads((model_dir / "module_info.json").read_text())
    assert info["input_names"] == ["history", "age", "gender"]
    assert info["output_names"] == ["vectors"]
    assert info["tasks"] == ["click", "like"]
    assert info["features"]["gender"] == {"type": "category", "vocabulary": ["F", "M"], "required": True}
    assert info["features"]["history"] == {"type": "history", "ids": "int", "length": 3, "required": True}
    assert info["dimension"] == info["tower"]["dimension"] == 6
    assert info["history_buckets"] is None
    names = ["module_info.json", "tables", "user_tower.safetensors"]
    assert sorted(path.name for path in model_dir.iterdir()) == names
    tables = ["tables.json", "user-age.safetensors", "user-gender.safetensors", "user-history.safetensors"]
    assert sorted(path.name for path in (model_dir / "tables").iterdir()) == tables


def test_damaged_models_are_refused_by_name(model_dir: Path) -> None:
    weights, info = model_dir / "user_tower.safetensors", model_dir / "module_info.json"
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(SnapshotError, match=r"user_tower\.safetensors"):
        TowerEncoder.load(model_dir)
    weights.unlink()
    with pytest.raises(SnapshotError, match=r"user_tower\.safetensors"):
        TowerEncoder.load(model_dir)
    weights.write_bytes(good)
    text = info.read_text()
    info.write_text(text.replace('"hidden": 16', '"hidden": 17'))
    with pytest.raises(SnapshotError, match=r"user_tower\.safetensors"):
        TowerEncoder.load(model_dir)
    info.write_text(text.replace('"bucket"', '"bukket"'))
    with pytest.raises(SnapshotError, match=r"module_info\.json.*features\.age\.type"):
        TowerEncoder.load(model_dir)
    info.unlink()
    with pytest.raises(SnapshotError, match=r"module_info\.json"):
        TowerEncoder.load(model_dir)
    info.write_text(text.replace('"history_buckets": null', '"history_buckets": 9'))
    with pytest.raises(SnapshotError, match=r"user_tower\.safetensors.*features: expected tables of sizes"):
        TowerEncoder.load(model_dir)
    info.write_text(text)
    (model_dir / "tables" / "user-age.safetensors").unlink()
    with pytest.raises(SnapshotError, match=r"user-age\.safetensors"):
        TowerEncoder.load(model_dir)


def test_sizes_are_compared_before_there_is_room_for_them(model_dir: Path) -> None:
    info, tables = model_dir / "module_info.json", model_dir / "tables" / "tables.json"
    text = info.read_text()
    for hidden in (10**11, 2**70, -1):
        info.write_text(text.replace('"hidden": 16', f'"hidden": {hidden}'))
        with pytest.raises(SnapshotError, match=r"user_tower\.safetensors|module_info\.json"):
            TowerEncoder.load(model_dir)
    info.write_text(text)
    table = json.loads(tables.read_text())
    table[1]["dimension"] = table[1]["dimension"] + 4
    tables.write_text(json.dumps(table))
    with pytest.raises(SnapshotError):
        TowerEncoder.load(model_dir)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "category", "vocabulary": "FM"}, "vocabulary: expected a list, got 'FM'"),
        ({"type": "category", "vocabulary": ["F", 1]}, "vocabulary: expected strings"),
        ({"type": "category", "vocabulary": [], "required": 1}, "required: expected true or false, got 1"),
        ({"type": "bucket", "boundaries": [1, "2"]}, "boundaries: expected finite numbers"),
        ({"type": "bucket", "boundaries": [float("nan")]}, "boundaries: expected finite numbers"),
        ({"type": "hash", "ids": "uuid", "buckets": 3}, "ids: expected int or string, got 'uuid'"),
        ({"type": "hash", "ids": "int", "buckets": 2.5}, "buckets: expected an integer of at least 1, got 2.5"),
        ({"type": "hash", "ids": "int", "buckets": 0}, "buckets: expected an integer of at least 1, got 0"),
    ],
)
def test_rules_of_features_are_of_their_types(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        category_from("f", settings)


def test_save_refuses_what_does_not_fit(tmp_path: Path) -> None:
    tower = make_tower()
    with pytest.raises(ValueError, match=r"features: expected tables of sizes .*'history': 6.*, got .*'history': 5"):
        save_model(tmp_path, tower, FEATURES, ITEM_KEYS[:4], TASKS)
    for tasks in ({}, {"click": 2}):
        with pytest.raises(ValueError, match="tasks: expected heads 0 to 1"):
            save_model(tmp_path, tower, FEATURES, ITEM_KEYS, tasks)
    fewer = UserFeatures("history", FEATURES.history, {"age": BucketFeature((18, 25))})
    with pytest.raises(ValueError, match="features: expected tables of sizes"):
        save_model(tmp_path, tower, fewer, ITEM_KEYS, TASKS)
    assert list(tmp_path.iterdir()) == []
