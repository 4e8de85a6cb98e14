"""`silverray export`: the file answers like the shard that it was made from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import silverray
from silverray.cluster.cli import app
from silverray.cluster.commands.export import parse_partitions
from silverray.shard.local import LocalSearcher
from silverray.shard.snapshot.catalog import Catalog

FILTERS = [None, "country = 'DE' and year >= 1990", "not live_show or rank < 500"]


def test_an_exported_file_answers_like_its_shard(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    arguments = ["export", catalog.path, "--out", file, "-k", 7, "--partitions", "0-2,5", "--json"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["items"], told["partitions"]) == (catalog.items_in((0, 1, 2, 5)), [0, 1, 2, 5])
    assert told["bytes"] == file.stat().st_size

    module = silverray.load_exported(file)
    searcher = LocalSearcher.open(catalog.path, [0, 1, 2, 5])
    queries = np.random.default_rng(0).normal(size=(9, catalog.dimension)).astype(np.float32)
    plans = [silverray.compile_filter(text, catalog.schema, catalog.layout).plan("exact") for text in FILTERS]
    assert all(plan.check is None for plan in plans)
    programs = torch.zeros(3, max(len(plan.program) for plan in plans), dtype=torch.int32)
    for row, plan in enumerate(plans):
        programs[row, : len(plan.program)] = torch.from_numpy(plan.program)
    keys, scores, _, _ = module(torch.from_numpy(queries), programs, torch.arange(9) % 3)
    expected = searcher.search_batch(queries, [FILTERS[row % 3] for row in range(9)], k=7)
    np.testing.assert_array_equal(keys.numpy(), expected.ids)
    np.testing.assert_array_equal(scores.numpy(), expected.scores)
    assert (expected.counts == 7).all()


def test_mistakes_are_named(catalog: Catalog, tmp_path: Path) -> None:
    assert parse_partitions(None) is None
    for text in ("", "a", "1-", "1,,2", "3-2", "1,0-4"):
        with pytest.raises(ValueError, match="--partitions: expected"):
            parse_partitions(text)
    done = CliRunner().invoke(app, ["export", str(catalog.path), "--out", str(tmp_path / "x"), "--partitions", "99"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "has no partition 99; it has 8" in done.stderr
    missing = tmp_path / "none" / "model.pt2"
    done = CliRunner().invoke(app, ["export", str(catalog.path), "--out", str(missing)])
    assert done.exit_code == 1 and str(missing.parent) in done.stderr


def test_a_file_that_is_no_exported_model_is_refused_by_its_path(tmp_path: Path) -> None:
    other = tmp_path / "films.txt"
    other.write_text("films")
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    for file in (other, weights):
        with pytest.raises(ValueError, match=rf"^path: expected a file that `silverray export` wrote, got {file}$"):
            silverray.load_exported(file)
