"""The retrieval model as one graph: compiled, exported, captured, and asked again where its room was too small."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from silverray.kernels.programs import Opcode, instruction
from silverray.kernels.rows import aligned_planes, aligned_rows
from silverray.shard.engine.engine import Engine
from silverray.shard.index import planner
from silverray.shard.index.planner import Plan
from silverray.shard.model import cuda_graphs
from silverray.shard.model.cuda_graphs import CudaGraphs, Inputs, Run
from silverray.shard.model.export import INFO_FILE, describe, export_model, save_exported
from silverray.shard.model.retrieval import Found, RetrievalModel
from silverray.shard.model.search import Answers, Search
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.snapshot.catalog import Catalog

EVERYTHING, HALF = [instruction(Opcode.LOAD)], [instruction(Opcode.LOAD), instruction(Opcode.AND, 3)]
PROGRAMS = torch.tensor([[*EVERYTHING, 0], HALF, [EVERYTHING[0], instruction(Opcode.ANDNOT)]], dtype=torch.int32)


@pytest.fixture
def shard(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> ShardModel:
    """3,000 items, of which a filter that passes more than 2,000 is probed."""
    monkeypatch.setattr(planner, "SURVIVORS", 2_000)
    return Engine.open(catalog.path).model


@pytest.fixture
def model(shard: ShardModel) -> RetrievalModel:
    return shard.retrieval


def batch(model: RetrievalModel, count: int, k: int = 10) -> Inputs:
    g = torch.Generator().manual_seed(count)
    queries = torch.randn(count, model.lists.codes.shape[1], generator=g)
    return queries, PROGRAMS, torch.randint(0, 3, (count,), generator=g), torch.full((count,), k)


def assert_found(found: Found | Answers | tuple[Tensor, ...], expected: Found) -> None:
    torch.testing.assert_close(found[0], expected.slots, rtol=0, atol=0)
    torch.testing.assert_close(found[1], expected.scores, rtol=0, atol=0)


def test_the_model_compiles_without_a_break(model: RetrievalModel) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (1, 7, 20):
        inputs = batch(model, count)
        expected = model(*inputs, 10)
        assert_found(compiled(*inputs, 10), expected)
    assert 0 < expected.plan.survivors.sum() < 20


@pytest.mark.parametrize("n_probe", [None, 5])
def test_an_exported_model_answers_like_the_model(
    shard: ShardModel, model: RetrievalModel, catalog: Catalog, n_probe: int | None, tmp_path: Path
) -> None:
    path, info = tmp_path / "model.pt2", describe(catalog, list(range(8)), 10, n_probe)
    save_exported(export_model(shard, 10, n_probe), path, info)
    extra = {INFO_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra[INFO_FILE]) == info
    assert info["input_names"] == [spec.arg.name for spec in program.graph_signature.input_specs[-3:]]
    loaded = program.module()
    for count in (1, 2, 33):
        queries, programs, filters, wanted = batch(model, count)
        expected = model(queries, programs, filters, wanted, 10, n_probe)
        keys, scores, slots, overflow = loaded(queries, programs, filters)
        assert_found((slots, scores), expected)
        assert not overflow.any()
        assert keys.tolist() == torch.where(slots >= 0, model.lists.keys[slots.clamp(min=0)], -1).tolist()
    # What a kernel would have to copy in every call is still laid out as kernels read it.
    tensors = dict(loaded.named_buffers())
    for name in ("codes", "vectors", "centroids", "centroid_codes"):
        assert aligned_rows(tensors[f"model.lists.{name}"]) is tensors[f"model.lists.{name}"]
    assert aligned_planes(tensors["model.lists.planes"]) is tensors["model.lists.planes"]


def test_a_failed_export_leaves_what_was_there(model: RetrievalModel, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        save_exported(None, path, {})  # type: ignore[arg-type]
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


class Recorder:
    """Captures without a GPU: runs what was captured, on inputs of the captured size only."""

    def __init__(self) -> None:
        self.replays: list[tuple[int, ...]] = []

    def __call__(self, run: Run, inputs: Inputs) -> Run:
        shapes = [part.shape for part in inputs]

        def replay(*given: Tensor) -> Found:
            assert [part.shape for part in given] == shapes
            self.replays.append((*shapes[0][:1], *shapes[1]))
            return run(*given)

        return replay


def test_captured_searches_find_the_same_and_pad_to_what_was_captured(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    captured = CudaGraphs(model, recorder)
    captured.warm_up()
    for count, k in ((1, 1), (3, 64), (4, 65), (17, 1_000), (64, 100)):
        queries, programs, filters, wanted = batch(model, count, k)
        assert_found(captured(queries, programs, filters, wanted, k), model(queries, programs, filters, wanted, k))
        assert_found(
            captured(queries, programs[:1], filters * 0, wanted, k), model(queries, programs, filters * 0, wanted, k)
        )
    assert recorder.replays == [
        (4, 5, 16), (1, 2, 16), (4, 5, 16), (4, 2, 16), (4, 5, 16), (4, 2, 16), (64, 65, 16), (64, 2, 16),
        (64, 65, 16), (64, 2, 16),
    ]  # fmt: skip


def test_what_was_not_captured_runs_as_it_is(model: RetrievalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    captured = CudaGraphs(model, recorder)
    monkeypatch.setattr(cuda_graphs, "BATCHES", (1, 4))
    captured.warm_up()
    inputs, long = batch(model, 5), torch.nn.functional.pad(PROGRAMS, (0, 70))
    assert_found(captured(*inputs, 10), model(*inputs, 10))
    inputs = batch(model, 4, 2_000)
    assert_found(captured(*inputs, 2_000), model(*inputs, 2_000))
    inputs = batch(model, 4)
    assert_found(captured(*inputs, 10, 3), model(*inputs, 10, 3))
    assert_found(captured(inputs[0], long, *inputs[2:], 10), model(*inputs, 10))
    assert recorder.replays == []


def test_queries_whose_room_was_too_small_are_asked_again(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model says so as a GPU would: its answer lacks what had no room."""
    rooms: list[tuple[int, int]] = []
    queries, programs, filters, wanted = batch(model, 9)
    expected, forward = model(queries, programs, filters, wanted, 10), model.forward

    def cramped(queries: Tensor, *arguments: object) -> Found:
        room = arguments[5] if len(arguments) > 5 else 100
        assert isinstance(room, int)
        rooms.append((len(queries), room))
        found = forward(queries, *arguments[:5])  # type: ignore[arg-type]
        overflow = arguments[1] == 0 if room < 3_000 else torch.zeros(len(queries), dtype=torch.bool)
        assert isinstance(overflow, Tensor)
        slots, scores = found.slots.clone(), found.scores.clone()
        slots[overflow], scores[overflow] = -1, -torch.inf
        return Found(slots, scores, Plan(*found.plan), overflow)

    search = Search(model, cramped)
    monkeypatch.setattr(model.planner, "room", lambda k, n_probe: 100)
    monkeypatch.setattr(model, "forward", cramped)
    answers = search(queries, programs, filters, [None] * 3, [10] * 9)
    assert_found(answers, expected)
    many = int((filters == 0).sum())
    assert rooms == [(9, 100), (many, 800), (many, 3_000)]
