"""Training on two processes through Ray Train computes what one process does."""

from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.torch import load_file
from two_tastes import write_all

from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.metrics import Progress
from silverray.cluster.training.ray_run import TrainingFailed, train_on_ray
from silverray.cluster.training.run import train
from silverray.shard.train.workers import Alone


@pytest.mark.ray
def test_two_workers_compute_what_one_does(tmp_path: Path) -> None:
    path = write_all(tmp_path, requests=7 * 64 + 1)  # the last batch of an epoch has nothing for one of the two
    alone = train(TrainConfig.load(path, out="alone"), Alone(), lambda _: None, resume=False)
    told: list[Progress] = []
    config = TrainConfig.load(path, out="together", workers=2)
    together = train_on_ray(config, told.append, resume=False, address=None)
    assert not ray.is_initialized()
    assert (together.steps, together.requests, together.impressions) == (16, 449, 1_796)
    for name, loss in alone.losses.items():
        assert together.losses[name] == pytest.approx(loss, abs=1e-5)
    assert together.recall is not None
    assert alone.recall is not None
    assert together.recall.likes == alone.recall.likes
    assert together.recall.model == pytest.approx(alone.recall.model, abs=0.02)
    vectors = [np.load(tmp_path / out / "item_vectors.npy") for out in ("alone", "together")]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    for name in ("user_tower.safetensors", "tables/user-seen.safetensors", "tables/user-age.safetensors"):
        one, other = (load_file(tmp_path / out / "model" / name) for out in ("alone", "together"))
        for key, tensor in one.items():
            np.testing.assert_allclose(other[key].numpy(), tensor.numpy(), atol=1e-5, err_msg=f"{name} {key}")
    assert all(progress.total == 898 for progress in told)

    # Its checkpoint can be continued by one process, and the other way round.
    longer = train(TrainConfig.load(path, out="together", epochs=3), Alone(), lambda _: None, resume=True)
    assert longer.steps == 24


@pytest.mark.ray
def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    config = TrainConfig.load(write_all(tmp_path), workers=2)
    damaged = config.out / "checkpoint/checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    with pytest.raises(TrainingFailed, match=r"checkpoint\.pt: not a readable checkpoint"):
        train_on_ray(config, lambda _: None, resume=True, address=None)
    assert not ray.is_initialized()
