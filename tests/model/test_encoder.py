import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from silverray.shard.api import InvalidRequest, SnapshotError
from silverray.shard.index.keys import hash_texts
from silverray.shard.model import encoder as encoder_module
from silverray.shard.model.encoder import TowerEncoder, save_model
from silverray.shard.model.features import BucketFeature, CategoryFeature, HistoryFeature, UserFeatures
from silverray.shard.model.towers import UserTower, UserTowerShape

FEATURES = UserFeatures(
    "history",
    HistoryFeature("int", length=3),
    {"age": BucketFeature((18, 25)), "gender": CategoryFeature(("F", "M"), required=True)},
)
ITEM_KEYS = np.array([100, 200, 300, 400, 500])


def make_tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(UserTowerShape(5, (4, 3), width=8, hidden=16, dimension=6, tasks=2)).eval()


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", make_tower(), FEATURES, ITEM_KEYS, tasks=("click", "like"))
    return tmp_path / "model"


@pytest.fixture
def encoder(model_dir: Path) -> Iterator[TowerEncoder]:
    encoder = TowerEncoder.load(model_dir)
    yield encoder
    encoder.close()


def encode(encoder: TowerEncoder, *users: dict[str, Any]) -> NDArray[np.float32]:
    return asyncio.run(encoder.encode(users))


def expected(history: list[int], age: int, gender: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        vectors: NDArray[np.float32] = make_tower()(
            torch.tensor([history + [0] * (3 - len(history))]), torch.tensor([[age, gender]])
        ).numpy()
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
        ({"gender": "F", "history": "100"}, "history", "expected a list of item ids, got a string"),
        ({"gender": "F", "history": [100, "7"]}, "history", "got a string at place 1"),
        ({"gender": "F", "history": [True]}, "history", "got a boolean at place 0"),
        ({"gender": "F", "history": [100.0]}, "history", "got a number at place 0"),
        ({"gender": "F", "history": [], "age": "30"}, "age", "expected a number, got a string"),
        ({"gender": "F", "history": [], "age": False}, "age", "expected a number, got a boolean"),
        ({"gender": "F", "history": [], "age": float("nan")}, "age", "expected a finite number, got nan"),
        ({"gender": "F", "history": [], "age": [30]}, "age", "expected a number, got a list"),
    ],
)
def test_wrong_features_are_named(encoder: TowerEncoder, user: dict[str, Any], where: str, message: str) -> None:
    good = {"history": [100], "gender": "F", "extra": 1}
    with pytest.raises(InvalidRequest) as caught:
        encode(encoder, good, user)
    assert caught.value.where == f"user[1].{where}"
    assert message in caught.value.message
    assert encoder.trimmed == {}
    np.testing.assert_allclose(encode(encoder, good), expected([1], 0, 1), atol=1e-6)


def test_unknown_features_are_trimmed_and_counted(encoder: TowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "MAX_TRIMMED_NAMES", 1)
    user = {"history": [100], "gender": "F"}
    vectors = encode(encoder, {**user, "country": "US"}, {**user, "country": 3})
    np.testing.assert_allclose(vectors, np.repeat(expected([1], 0, 1), 2, axis=0), atol=1e-6)
    encode(encoder, {**user, "a": 1}, {**user, "b": 1})
    assert encoder.trimmed == {"country": 2, encoder_module.OTHER_NAMES: 2}


def test_string_ids(tmp_path: Path) -> None:
    features = UserFeatures("seen", HistoryFeature("string", length=3, required=False), FEATURES.categories)
    save_model(tmp_path, make_tower(), features, hash_texts(["a", "b", "c", "d", "é"]), ("click", "like"))
    encoder = TowerEncoder.load(tmp_path)
    vectors = encode(encoder, {"seen": ["é", "x", "b"], "gender": "F"}, {"gender": "F"})
    np.testing.assert_allclose(vectors, np.vstack([expected([5, 2], 0, 1), expected([], 0, 1)]), atol=1e-6)
    with pytest.raises(InvalidRequest, match=r"user\[0\]\.seen: .*string item ids, got an integer"):
        encode(encoder, {"seen": [1], "gender": "F"})
    with pytest.raises(InvalidRequest, match=r"user\[0\]\.seen"):
        encode(encoder, {"seen": ["\ud800"], "gender": "F"})
    encoder.close()


def test_the_tower_runs_off_the_event_loop(encoder: TowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> bool:
        release, loop_ran = asyncio.Event(), False
        loop = asyncio.get_running_loop()
        forward = encoder.tower.forward

        def waiting(*inputs: torch.Tensor) -> torch.Tensor:
            # Deadlocks until the time-out unless the loop is free to answer.
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(timeout=10)
            return forward(*inputs)

        monkeypatch.setattr(encoder.tower, "forward", waiting)
        answer = asyncio.ensure_future(encoder.encode([{"history": [100], "gender": "F"}]))
        await asyncio.sleep(0)
        loop_ran = not answer.done()
        release.set()
        np.testing.assert_allclose(await answer, expected([1], 0, 1), atol=1e-6)
        return loop_ran

    assert asyncio.run(ask())


def test_a_model_describes_itself(model_dir: Path) -> None:
    info = json.loads((model_dir / "module_info.json").read_text())
    assert info["input_names"] == ["history", "age", "gender"]
    assert info["output_names"] == ["vectors"]
    assert info["tasks"] == ["click", "like"]
    assert info["features"]["gender"] == {"type": "category", "vocabulary": ["F", "M"], "required": True}
    assert info["features"]["history"] == {"type": "history", "ids": "int", "length": 3, "required": True}
    assert info["dimension"] == info["tower"]["dimension"] == 6
    assert sorted(path.name for path in model_dir.iterdir()) == ["module_info.json", "user_tower.safetensors"]


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


def test_save_refuses_what_does_not_fit(tmp_path: Path) -> None:
    tower = make_tower()
    with pytest.raises(ValueError, match="item_keys: expected 5, got 4"):
        save_model(tmp_path, tower, FEATURES, ITEM_KEYS[:4], ("click", "like"))
    with pytest.raises(ValueError, match="tasks: expected 2 names, got 1"):
        save_model(tmp_path, tower, FEATURES, ITEM_KEYS)
    fewer = UserFeatures("history", FEATURES.history, {"age": BucketFeature((18, 25))})
    with pytest.raises(ValueError, match="features: expected sizes"):
        save_model(tmp_path, tower, fewer, ITEM_KEYS, ("click", "like"))
    assert list(tmp_path.iterdir()) == []
