"""`silverray train`: configuration, outputs, resumption, and what is refused."""

import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from two_tastes import CONFIG, ITEMS, items_table, write_all
from typer.testing import CliRunner, Result

from silverray.cluster.cli import app
from silverray.cluster.strict_yaml import ConfigError
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.metrics import MetricsLog, Progress
from silverray.cluster.training.run import RunData, train
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.towers.encoder import TowerEncoder
from silverray.shard.train.checkpoint import CHECKPOINT_FILE, load_checkpoint
from silverray.shard.train.workers import Alone

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMA = "{id: id, vector: {dimension: 16, metric: cosine}, fields: {half: {type: category}}}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def events(folder: Path) -> Iterator[Event]:
    for file in sorted(folder.glob("events*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16


def figures(folder: Path, tag: str) -> dict[int, float]:
    return {
        event.step: value.simple_value for event in events(folder) for value in event.summary.value if value.tag == tag
    }


@pytest.mark.parametrize("kind", ["mlp", "mixture_of_logits", "self_attention"])
def test_a_scorer_is_trained_and_served(tmp_path: Path, kind: str) -> None:
    config = write_all(tmp_path)
    scorer = f"{{kind: {kind}, hidden: 8, item_features: [{{field: id, transform: log1p, scale: 7}}]}}"
    text = config.read_text().replace("serve_tasks: [liked]\n", f"scorer: {scorer}\n")
    config.write_text(text)
    done = run(str(config), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["losses"]["scorer"] < 5
    items = pq.read_table(tmp_path / "items.parquet")
    schema = SCHEMA.replace("id: id,", "id: key,").replace("fields: {", "fields: {id: {type: int}, ")
    vectors = np.load(tmp_path / "out" / "item_vectors.npy")
    catalog = publish(
        items.append_column("key", items.column("id")), Schema.parse(schema), tmp_path / "snapshots",
        vectors=vectors, model=tmp_path / "out" / "model", partitions=2, clusters=4, version="v1",
    )  # fmt: skip
    assert catalog.tasks == ("liked", "watched")
    searcher = LocalSearcher.open(catalog.path)
    assert (searcher.engine.scorer, searcher.engine.model.ranks) == (kind, True)
    assert (searcher.engine.set_ranker is not None) == catalog.set_wise == (kind == "self_attention")
    users = asyncio.run(TowerEncoder.load(catalog.path / "model").encode([{"seen": [10, 20, 30], "age": 25}]))
    found = searcher.search_batch(users, k=10)
    assert (found.ids[0] < 500).sum() >= 9  # of the half that the user likes


def test_a_scorer_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    config = write_all(tmp_path)
    text = config.read_text()
    config.write_text(text + "scorer: {kind: mlp}\n")
    assert "serve_tasks: expected all of liked, watched with a scorer" in run(str(config)).output
    every = text.replace("serve_tasks: [liked]\n", "")
    for field, message in (("nosuch", "expected columns of"), ("half", "item_features[0].field: expected one of")):
        config.write_text(every + f"scorer: {{kind: mlp, item_features: [{{field: {field}, transform: log1p}}]}}\n")
        assert message in run(str(config)).output
    config.write_text(every + "scorer: {kind: self_attention, hidden: 6}\n")
    assert "scorer.hidden: expected a multiple of 4, got 6" in run(str(config)).output


def test_a_run_writes_what_publish_takes(tmp_path: Path) -> None:
    done = run(str(write_all(tmp_path)), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["steps"], told["requests"], told["impressions"]) == (16, 500, 2_000)
    assert told["recall"]["likes"] == 180
    assert told["recall"]["model"] > told["recall"]["popularity"]
    out = tmp_path / "out"
    assert told["model"] == str(out / "model")
    losses = figures(out / "metrics", "loss/liked-sampled_softmax")
    assert sorted(losses) == list(range(1, 17))
    last_epoch = [loss for step, loss in losses.items() if step > 8]
    assert told["losses"]["liked-sampled_softmax"] == pytest.approx(np.mean(last_epoch), rel=1e-5)
    assert list(figures(out / "metrics", "recall_at_10").values()) == [pytest.approx(told["recall"]["model"])]
    vectors = np.load(out / "item_vectors.npy")
    catalog = publish(
        pq.read_table(tmp_path / "items.parquet"),
        Schema.parse(SCHEMA),
        tmp_path / "snapshots",
        vectors=vectors,
        model=out / "model",
        partitions=2,
        clusters=4,
        version="v1",
    )
    assert catalog.has_user_tower
    encoder = TowerEncoder.load(tmp_path / "snapshots" / "v1" / "model")
    assert encoder.tasks == ("liked",)
    users: list[dict[str, Any]] = [{"seen": [10, 20, 30], "age": 25}, {"seen": [910, 920], "age": 25}, {"seen": []}]
    found = asyncio.run(encoder.encode(users))
    encoder.close()
    scores = found[:, 0] @ vectors.T
    low, high = scores[:, : ITEMS // 2].mean(axis=1), scores[:, ITEMS // 2 :].mean(axis=1)
    assert low[0] > high[0]
    assert low[1] < high[1]


def test_a_person_reads_what_was_done_and_what_comes_next(tmp_path: Path) -> None:
    done = run(str(write_all(tmp_path, config=CONFIG.replace("epochs: 2", "epochs: 1"))))
    assert done.exit_code == 0, done.output
    assert "500 requests with 2,000 impressions, 1 times, in 8 steps" in done.output
    assert "loss: liked-sampled_softmax " in done.output
    assert "of 180 held-out 'liked', the first 10 places hold" in done.output
    assert f"silverray publish {tmp_path / 'items.parquet'}" in done.output


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.done > 500 + 3 * 64:
            raise Killed

    path = write_all(tmp_path)
    whole = train(TrainConfig.load(path, out="whole"), Alone(), lambda _: None, resume=False)
    with pytest.raises(Killed):
        train(TrainConfig.load(path, out="parts"), Alone(), die, resume=False)
    assert not (tmp_path / "parts" / "model").exists()
    assert torch.load(tmp_path / "parts/checkpoint/checkpoint.pt")["place"]["number"] == 10
    parts = train(TrainConfig.load(path, out="parts"), Alone(), lambda _: None, resume=True)
    assert (parts.steps, parts.recall) == (whole.steps, whole.recall)
    assert (tmp_path / "parts/item_vectors.npy").read_bytes() == (tmp_path / "whole/item_vectors.npy").read_bytes()
    for name in ("user_tower.safetensors", "tables/user-seen.safetensors"):
        one, other = (load_file(tmp_path / out / "model" / name) for out in ("whole", "parts"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert sorted(figures(tmp_path / "parts/metrics", "loss/liked-sampled_softmax")) == list(range(1, 17))


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = write_all(tmp_path)
    done = run(str(path), "--resume")
    assert done.exit_code == 1
    assert "checkpoint.pt: not a readable checkpoint" in done.output
    assert run(str(path)).exit_code == 0
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    done = run(str(path), "--resume")
    assert done.exit_code == 1
    assert "the checkpoint is of another run: learning_rate: expected 0.02, got 0.01" in done.output


def test_more_epochs_go_on_from_fewer(tmp_path: Path) -> None:
    path = write_all(tmp_path)
    config = TrainConfig.load(path)
    train(config, Alone(), lambda _: None, resume=False)
    longer = train(TrainConfig.load(path, epochs=3), Alone(), lambda _: None, resume=True)
    again = train(TrainConfig.load(path, epochs=3, out="again"), Alone(), lambda _: None, resume=False)
    assert (longer.steps, longer.recall, longer.losses) == (24, again.recall, again.losses)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 2", "epochs: 0", "epochs: expected at least 1, got 0"),
        ("epochs: 2", "epoch: 2", "epoch: unknown key"),
        (
            "{task: liked, loss: sampled_softmax}",
            "{task: liked, loss: hinge}",
            "objectives.0.loss: expected 'sampled_softmax', 'binary_cross_entropy', got 'hinge'",
        ),
        ("{task: liked, loss: sampled_softmax}", "{task: like, loss: sampled_softmax}", "expected one of the tasks"),
        ("serve_tasks: [liked]", "serve_tasks: [clicked]", "serve_tasks: expected one of the tasks liked, watched"),
        ("recall: {task: liked, places: 10}", "recall: {task: like}", "recall.task: expected one of the tasks"),
        ("recall: {task: liked, places: 10}", "", "recall: expected both held_out and recall, or neither"),
        ("dropout: {seen: 0.2}", "dropout: {sen: 0.2}", "dropout: expected one of the features seen, age, got 'sen'"),
        ("dropout: {seen: 0.2}", "dropout: {seen: 1.0}", "dropout.seen: expected less than 1"),
        ("requests: 64, ", "", "expected either requests or impressions"),
        ("dimension: 16", "dimension: 16, ids: 7", "key 'ids' is given twice"),
        ("hidden: 32, ids: 16", "hidden: 32, ids: 7", "user-seen.dimension: expected a multiple of 4, got 7"),
        ("id: id", "id: film", "items.parquet: column 'film'"),
        ("half: {", "quarter: {", "items.parquet: column 'quarter'"),
        ("later.parquet", "earlier.parquet", "earlier.parquet: no such file"),
        (
            "requests: requests.parquet",
            "requests: s3://b/requests.parquet",
            "s3:/b/requests.parquet: only local",
        ),
        ("items.parquet", "gs://b/items.parquet", "error: gs:/b/items.parquet: only local paths are read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CONFIG
    path = write_all(tmp_path, config=CONFIG.replace(old, new))
    done = run(str(path))
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_items_may_lie_in_a_partitioned_folder_and_differ_in_types(tmp_path: Path) -> None:
    path = write_all(tmp_path, config=CONFIG.replace("items.parquet", "items"))
    table = pq.read_table(tmp_path / "items.parquet")
    for name, type_ in {"high": pa.dictionary(pa.int8(), pa.string()), "low": pa.string_view()}.items():
        rows = table.filter(pc.equal(table["half"], name)).select(["id"])
        rows = rows.append_column("half", pa.array([name] * len(rows)).cast(type_))
        (tmp_path / f"items/half={name}").mkdir(parents=True)
        pq.write_table(rows, tmp_path / f"items/half={name}/part.parquet")
    read = RunData.open(TrainConfig.load(path))
    whole = RunData.open(TrainConfig.load(write_all(tmp_path)))
    assert sorted(read.keys.tolist()) == sorted(whole.keys.tolist())
    found, wanted = (data.items.look_up(whole.keys)["half"] for data in (read, whole))
    assert np.array_equal(found.values, wanted.values) and set(found.values.tolist()) == {1, 2}


def test_paths_count_from_the_file_or_from_a_folder(tmp_path: Path) -> None:
    path = write_all(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    assert TrainConfig.load(path).requests == [tmp_path / "requests.parquet"]
    config = TrainConfig.load(path, folder=elsewhere, requests=["a.parquet", "b.parquet"])
    assert config.requests == [elsewhere / "a.parquet", elsewhere / "b.parquet"]
    assert config.items.file == elsewhere / "items.parquet"
    assert config.out == elsewhere / "out"
    assert config.features == tmp_path / "features.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        TrainConfig.load(tmp_path / "none.yaml")


def test_a_run_without_held_out_requests_or_features_and_with_hashed_ids(tmp_path: Path) -> None:
    config = CONFIG.replace("held_out: later.parquet\n", "").replace("recall: {task: liked, places: 10}\n", "")
    config = config.replace(", features: {half: {type: category, vocabulary: [low, high]}}", ", buckets: 50")
    config = config.replace("serve_tasks: [liked]\n", "")
    trained = train(TrainConfig.load(write_all(tmp_path, config=config)), Alone(), lambda _: None, resume=False)
    assert trained.recall is None
    assert np.load(tmp_path / "out/item_vectors.npy").shape == (items_table().num_rows, 16)
    encoder = TowerEncoder.load(tmp_path / "out/model")
    assert encoder.tasks == ("liked", "watched")
    assert asyncio.run(encoder.encode([{"seen": [10, 12345]}])).shape == (1, 2, 16)
    encoder.close()


def test_the_shipped_configuration_loads_and_says_how_to_run_it(tmp_path: Path) -> None:
    path = CONFIGS / "movielens-train.yaml"
    config = TrainConfig.load(path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "# silverray train configs/movielens-train.yaml"
    assert config.features.exists()


@pytest.mark.parametrize("size_kb", [8, 40, 60, 104, 112])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    size_kb: int, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """A checkpoint takes 95 KB; what is written beside it may fail as well."""
    config = write_all(tmp_path)
    disk = small_disk(size_kb)
    config.write_text(config.read_text().replace("out: out\n", f"out: {disk / 'out'}\n"))
    done = run(str(config))
    assert done.exit_code == 1
    went_on = "; make room and go on from the last checkpoint with --resume" if size_kb > 100 else ""
    assert done.stderr == f"error: {disk / 'out'}: cannot be written: No space left on device{went_on}\n"
    files = {file.name for file in (disk / "out/checkpoint").iterdir()}
    assert files == ({CHECKPOINT_FILE} if went_on else set())
    if went_on:
        assert load_checkpoint(disk / "out/checkpoint")["place"]["number"] == 5


def test_metrics_that_cannot_be_written_are_told_to_who_writes_them(small_disk: Callable[[int], Path]) -> None:
    """A thread of tensorboardX's own ended with them, and the eleventh figure waited for it for ever."""
    disk = small_disk(4)
    (disk / "other").write_bytes(bytes(4096))
    with pytest.raises(OSError, match=r"No space left"), closing(MetricsLog(disk, 1)) as log:
        for step in range(1_000):
            log.write("loss", 0.5, step)
