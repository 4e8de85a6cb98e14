"""Re-ranking by a set-wise scorer on one shard: against the module on the brute-force list, and its edges."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import DIMENSION, make_items, make_requests, write_set_wise
from queries import ask_featured
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.kernels.programs import Opcode, instruction
from silverray.shard.api import InvalidRequest, SearchError, SearchReply, SearchRequest
from silverray.shard.engine.rerank import _alike
from silverray.shard.live.writes import Delete, Entry, Patch
from silverray.shard.local import LocalSearcher
from silverray.shard.model.reranking import Reranking
from silverray.shard.model.scorer_files import OverArch, load_overarch
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles
from silverray.shard.value.settings import ValueSettings

CLOSE = 1e-5
VALUE = ValueSettings.model_validate(
    {
        "default": "click + 2 * like",
        "variants": {"jazz": "if(tags any ('jazz') and year >= context.from, 2, 1) * click + 0.1"},
        "context": {"from": {"type": "int"}},
    }
)
ROWS = {key: row for row, key in enumerate(make_items(3_000)[0].column("id").to_pylist())}


def ask(searcher: ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    for reply in replies:
        assert isinstance(reply, SearchReply), reply
    return replies  # type: ignore[return-value]


def every(count: int, seed: int, **options: Any) -> list[SearchRequest]:
    """Requests of which every matching item is a candidate."""
    return make_requests(count, seed, tasks=2, refine="all", n_probe=64, **options)


def overarch(catalog: Catalog) -> OverArch:
    return load_overarch(SnapshotFiles.open(catalog.path), catalog.schema)


def reference(catalog: Catalog, request: SearchRequest, found: SearchReply) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Keys, values and predictions of a whole list, by the module in float64 and the formulas in plain Python."""
    table, vectors = make_items(3_000)
    rows = [ROWS[key] for key in found.keys.tolist()]
    columns = {name: [table.column(name)[row].as_py() for row in rows] for name in ("rank", "year", "tags")}
    scorer, features = overarch(catalog)[1:]
    numbers = {
        name: (torch.tensor([[value or 0 for value in columns[name]]]).double(),
               torch.tensor([[value is not None for value in columns[name]]]))
        for name in ("rank", "year")
    }  # fmt: skip
    made = features.of_values(numbers, torch.zeros(1, len(rows))).double()
    assert request.vectors is not None
    users, items = torch.from_numpy(request.vectors)[None].double(), torch.from_numpy(vectors[rows])[None].double()
    with torch.inference_mode():
        predictions = scorer.double()(users, items, made, torch.ones(1, len(rows), dtype=torch.bool))[0].numpy()
    click, like = predictions.T
    values = click + 2 * like
    if request.variant == "jazz":
        good = [
            "jazz" in tags and year is not None and year >= request.context["from"]  # type: ignore[index]
            for tags, year in zip(columns["tags"], columns["year"], strict=True)
        ]
        values = np.where(good, 2, 1) * click + 0.1
    order = np.lexsort((found.keys, -values))
    return found.keys[order].tolist(), values[order], predictions[order]


def assert_close(reply: SearchReply, keys: list[int], values: np.ndarray, predictions: np.ndarray) -> None:
    limit = CLOSE * max(1.0, float(np.abs(predictions).max(initial=0)))
    np.testing.assert_allclose(reply.scores, values[: len(reply.keys)], rtol=CLOSE, atol=limit)
    known = dict(zip(keys, zip(values, predictions, strict=True), strict=True))
    assert reply.tasks is not None and reply.tasks.names == ("click", "like")
    for key, score, own in zip(reply.keys.tolist(), reply.scores, reply.tasks.predictions, strict=True):
        np.testing.assert_allclose(score, known[key][0], rtol=CLOSE, atol=limit)
        np.testing.assert_allclose(own, known[key][1], rtol=CLOSE, atol=limit)


@pytest.mark.parametrize("variant", [None, "jazz"])
@pytest.mark.parametrize("kind", [ShardSearcher, ExactSearch])
def test_a_list_is_the_modules_order_of_the_brute_force_list(
    set_wise: Catalog, kind: type[ShardSearcher], variant: str | None
) -> None:
    requests = every(12, 1, ks=(1, 10, 100), variant=variant, context={"from": 1980}, explain=True)
    exact = ExactSearch.open(set_wise.path, value=VALUE)
    replies = ask(kind.open(set_wise.path, value=VALUE, window=60), requests)
    wide = [replace(request, k=max(60, request.k)) for request in requests]
    lists = ask_featured(exact, wide)
    moved = 0
    for request, reply, found in zip(requests, replies, lists, strict=True):
        assert len(reply.keys) == min(request.k, len(found.keys))
        assert_close(reply, *reference(set_wise, request, found))
        moved += reply.keys.tolist() != found.keys[: len(reply.keys)].tolist()
        assert reply.explain is not None and type(reply) is SearchReply
        stage = reply.explain["stages"][-1]
        assert (stage["stage"], stage["in"], stage["out"]) == ("rerank", len(found.keys), len(reply.keys))
        assert reply.explain["short"] == (len(found.keys) < request.k)
        assert reply.tasks is not None and found.tasks is not None
        dots = dict(zip(found.keys.tolist(), found.tasks.found.tolist(), strict=True))
        assert reply.tasks.found.tolist() == [dots[key] for key in reply.keys.tolist()]
    assert moved > 6


def test_other_items_of_the_list_change_a_score(set_wise: Catalog) -> None:
    searcher = ShardSearcher.open(set_wise.path, value=VALUE)
    request = replace(every(1, 2)[0], filter=None, k=30)
    (best,) = ask(searcher, [request])
    keys = np.sort(best.keys)
    whole, fewer, other = ask(
        searcher,
        [
            replace(request, keys=keys, k=30),
            replace(request, keys=keys[:20], k=20),
            replace(request, keys=np.append(keys[:29], searcher.engine.model.lists.keys[:400].max().item()), k=30),
        ],
    )
    known = dict(zip(whole.keys.tolist(), whole.scores.tolist(), strict=True))
    for reply in (fewer, other):
        apart = [abs(known[k] - s) for k, s in zip(reply.keys.tolist(), reply.scores, strict=True) if k in known]
        assert len(apart) >= 20 and max(apart) > 1e-3


def test_an_answer_depends_neither_on_its_batch_nor_on_k_within_the_window(set_wise: Catalog) -> None:
    searcher = ShardSearcher.open(set_wise.path, value=VALUE, window=40)
    requests = every(20, 3, ks=(1, 7, 40, 300), context={"from": 1980})
    requests = [replace(request, variant=(None, "jazz")[row % 2]) for row, request in enumerate(requests)]
    for request, together in zip(requests, ask(searcher, requests), strict=True):
        (alone,) = ask(searcher, [request])
        np.testing.assert_allclose(together.scores, alone.scores, rtol=CLOSE, atol=CLOSE)
        assert together.keys.tolist() == alone.keys.tolist()
    ten, forty = ask(searcher, [replace(requests[0], k=k) for k in (10, 40)])
    assert ten.keys.tolist() == forty.keys[:10].tolist()


def test_lists_of_a_batch_may_differ_in_length_and_formula(set_wise: Catalog) -> None:
    searcher = ShardSearcher.open(set_wise.path, value=VALUE)
    (request,), keys = every(1, 3, context={"from": 1980}), np.array(sorted(ROWS)[:30])
    given = [(20, "jazz"), (30, None), (17, "jazz"), (25, None), (28, "jazz")]
    requests = [replace(request, keys=keys[:count], k=count, variant=variant) for count, variant in given]
    for asked, together in zip(requests, ask(searcher, requests), strict=True):
        (alone,) = ask(searcher, [asked])
        np.testing.assert_allclose(together.scores, alone.scores, rtol=CLOSE, atol=CLOSE)
        assert together.keys.tolist() == alone.keys.tolist()


def test_embedded_search_is_that_of_a_shard(set_wise: Catalog) -> None:
    local = LocalSearcher.open(set_wise.path, value=VALUE, window=50)
    shard = ShardSearcher.open(set_wise.path, value=VALUE, window=50)
    requests = [replace(request, k=20) for request in make_requests(6, 4, tasks=2)]
    texts = [request.filter for request in requests]
    found = local.search_batch(np.stack([r.vectors for r in requests]), texts, k=20)  # type: ignore[misc]
    for row, reply in enumerate(ask(shard, requests)):
        count = len(reply.keys)
        assert found.counts[row] == count and (found.ids[row, count:] == -1).all()
        np.testing.assert_array_equal(found.ids[row, :count], reply.keys)
        np.testing.assert_allclose(found.scores[row, :count], reply.scores, rtol=CLOSE, atol=CLOSE)
    assert local.search_batch(np.ones((0, 2, DIMENSION), np.float32), k=3).ids.shape == (0, 3)
    with pytest.raises(InvalidRequest, match="k: expected at most 1000 items where a scorer judges lists as a whole"):
        local.search_batch(np.ones((1, 2, DIMENSION), np.float32), k=1_001)


def test_a_model_with_one_task_tells_predictions_and_how_items_were_found(
    publish_items: Callable[..., Catalog], tmp_path: Path
) -> None:
    made = publish_items(200, strings=True, model=write_set_wise(tmp_path / "model", ("click",)))
    assert ShardSearcher.open(made.path).engine.model.ranks is False
    request = make_requests(1, 5, ks=(20,), fields=("title",))[0]
    (reply,) = ask(ExactSearch.open(made.path, window=30), [replace(request, filter=None)])
    assert reply.tasks is not None and reply.tasks.names == ("click",)
    np.testing.assert_array_equal(reply.tasks.predictions[:, 0], reply.scores)
    assert reply.scores.tolist() == sorted(reply.scores.tolist(), reverse=True)
    assert (reply.tasks.found[:, 0] != reply.scores).all() and len(set(reply.ids)) == 20
    assert reply.fields["title"] == [f"title {str(id_).split('-')[1]} é" for id_ in reply.ids]


def test_empty_lists_and_single_items(set_wise: Catalog) -> None:
    searcher = ShardSearcher.open(set_wise.path, value=VALUE, slack=0.1)
    base = replace(every(1, 6)[0], filter=None, explain=True)
    nothing, one, none_known, no_keys, two = ask(
        searcher,
        [
            replace(base, filter='country = "Nowhere"'),
            replace(base, filter="rank = 7"),
            replace(base, keys=np.array([10**12]), k=1),
            replace(base, keys=np.empty(0, dtype=np.int64), k=1),
            replace(base, filter="rank = 7 or rank = 8", k=1),
        ],
    )
    for reply in (nothing, none_known, no_keys):
        assert len(reply.keys) == 0 and reply.explain is not None
        assert reply.explain["stages"][-1]["in"] == 0
    assert len(one.keys) == 1 and np.isfinite(one.scores).all()
    assert len(two.keys) == 1 and two.explain is not None and two.explain["stages"][-1]["in"] == 2
    assert searcher.updates is not None
    searcher.apply([Entry(number, Delete(key)) for number, key in enumerate(ROWS, 1)])
    (gone,) = ask(searcher, [base])
    assert len(gone.keys) == 0 and gone.explain is not None and gone.explain["short"] is True
    searcher.updates.close()


def test_a_patched_feature_changes_the_scores_of_the_list(set_wise: Catalog) -> None:
    searcher = ShardSearcher.open(set_wise.path, value=VALUE, slack=0.1)
    assert searcher.updates is not None
    keys = np.array(sorted(ROWS)[:30])
    request = SearchRequest(vectors=every(1, 7)[0].vectors, keys=keys, k=30)
    (before,) = ask(searcher, [request])
    searcher.apply([Entry(1, Patch(int(keys[3]), {"rank": 1_000_000, "year": None}))])
    (after,) = ask(searcher, [replace(request, min_seq=1)])
    was, now = (dict(zip(reply.keys.tolist(), reply.scores.tolist(), strict=True)) for reply in (before, after))
    changes = {key: abs(was[key] - now[key]) for key in was}
    assert max(changes, key=changes.__getitem__) == keys[3] and changes[keys[3]] > 0.01
    assert sum(change > 1e-6 for change in changes.values()) > 10
    assert after.seq == 1
    searcher.updates.close()


@pytest.mark.parametrize(
    ("given", "where"), [({"k": 1_001}, "k"), ({"keys": np.arange(1_001), "k": 1_001}, "ids"), ({"k": 0}, "k")]
)
def test_lists_of_more_than_a_scorer_judges_are_refused(set_wise: Catalog, given: dict[str, Any], where: str) -> None:
    request = replace(every(1, 8)[0], **given)
    (error,) = asyncio.run(ShardSearcher.open(set_wise.path).search([request]))
    assert isinstance(error, SearchError) and error.where == where
    assert isinstance(error, InvalidRequest) and f"got {given['k']}" in error.message


def test_features_hold_what_the_scorer_and_the_formula_read(set_wise: Catalog, two_tasks: Catalog) -> None:
    request = replace(every(1, 9)[0], filter=None, k=40, variant="jazz", context={"from": 1990})
    (reply,) = ask_featured(ShardSearcher.open(set_wise.path, value=VALUE), [request], ("country",))
    table, vectors = make_items(3_000)
    rows = [ROWS[key] for key in reply.keys.tolist()]
    np.testing.assert_array_equal(reply.features.vectors, vectors[rows])
    assert reply.features.codes.shape == (1, 40)
    ranks = np.array([table.column("rank")[row].as_py() for row in rows])
    np.testing.assert_allclose(reply.features.features[:, 0], np.log1p(ranks) / 8, rtol=1e-6)
    years = reply.features.fields["year"]
    assert list(reply.features.fields) == ["tags", "year"] and years.present is not None
    told = [int(year) if there else None for year, there in zip(years.values, years.present, strict=True)]
    assert told == [table.column("year")[row].as_py() for row in rows]
    counts = (reply.features.fields["tags"].values >= 0).sum(axis=1).tolist()
    assert counts == [len(table.column("tags")[row].as_py()) for row in rows]
    (bare,) = ask_featured(ShardSearcher.open(two_tasks.path, value=VALUE), [request], ("country",))
    assert bare.features.features.shape == (40, 0) and bare.features.fields == {}


def test_lists_of_like_lengths_are_ranked_together() -> None:
    parts = [sorted(part) for part in _alike([5, 0, 250, 7, 1, 250, 1_000, 4])]
    assert parts == [[1], [4], [0, 3, 7], [2, 5], [6]]
    assert [len(part) for part in _alike([1_000] * 20)] == [8, 8, 4]
    assert list(_alike([])) == []


def test_an_exported_model_says_that_it_leaves_the_scorer_out(set_wise: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    done = CliRunner().invoke(app, ["export", str(set_wise.path), "--out", str(file), "-k", "7"])
    assert done.exit_code == 0, done.output
    assert "left out: self_attention" in " ".join(done.output.split())
    (request,) = every(1, 10, ks=(7,))
    (found,) = ask_featured(ShardSearcher.open(set_wise.path), [replace(request, filter=None, n_probe=None)])
    programs, vectors = torch.tensor([[instruction(Opcode.LOAD)]], dtype=torch.int32), request.vectors
    assert vectors is not None
    keys, *_ = torch.export.load(file).module()(torch.from_numpy(vectors)[None], programs, torch.zeros(1).long())
    assert keys[0].tolist() == found.keys.tolist()


def test_the_stage_compiles(set_wise: Catalog) -> None:
    g = torch.Generator().manual_seed(0)
    users, items = torch.randn(3, 2, DIMENSION, generator=g), torch.randn(3, 9, DIMENSION, generator=g)
    features, keys = torch.randn(3, 9, 5, generator=g), torch.randperm(27, generator=g).view(3, 9)
    valid = torch.arange(9) < torch.tensor([[9], [0], [4]])
    valuations = ShardSearcher.open(set_wise.path).engine.valuer.valuations([], users.device)
    stage = Reranking(overarch(set_wise).scorer)
    torch.compiler.reset()
    with torch.inference_mode():
        best = stage(users, items, features, keys, valid, valuations, [{}])
        again = torch.compile(stage, fullgraph=True, backend="aot_eager")(
            users, items, features, keys, valid, valuations, [{}]
        )
    assert (best.places >= 0).sum(dim=1).tolist() == [9, 0, 4]
    values = best.predictions.mean(dim=2).gather(1, best.places.clamp(min=0))
    there = best.places >= 0
    torch.testing.assert_close(best.scores[there], values[there])
    torch.testing.assert_close(again.scores, best.scores)
