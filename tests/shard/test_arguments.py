"""Arguments that Python's callers get wrong: one line that names them, as for a request over HTTP."""

import asyncio
import pickle
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import DIMENSION

from silverray.shard.api import InvalidRequest, SearchReply, SearchRequest, SnapshotError
from silverray.shard.engine.engine import Engine
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

QUERIES = np.random.default_rng(0).standard_normal((2, DIMENSION)).astype(np.float32)


class Frame:
    """What data frames are to NumPy."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return QUERIES.astype(np.float64)


def column() -> np.ndarray:
    """A column of lists."""
    rows = np.empty(2, dtype=object)
    rows[:] = QUERIES.tolist()
    return rows


@pytest.fixture(scope="module")
def local(catalog: Catalog) -> LocalSearcher:
    return LocalSearcher.open(catalog.path)


@pytest.fixture(scope="module")
def shard(catalog: Catalog) -> ShardSearcher:
    return ShardSearcher.open(catalog.path)


@pytest.mark.parametrize(
    "given",
    [QUERIES.tolist(), list(QUERIES), QUERIES.astype(np.float64), torch.from_numpy(QUERIES), Frame(), column(),
     torch.from_numpy(QUERIES).double().requires_grad_(), np.asfortranarray(QUERIES)],
)  # fmt: skip
def test_queries_are_whatever_holds_numbers(local: LocalSearcher, given: Any) -> None:
    found, same = local.search_batch(given, k=5), local.search_batch(QUERIES, k=5)
    assert np.array_equal(found.ids, same.ids) and np.array_equal(found.scores, same.scores)


def test_half_floats_and_integers_are_queries_too(local: LocalSearcher) -> None:
    halves = torch.from_numpy(QUERIES).bfloat16()
    assert np.array_equal(
        local.search_batch(halves, k=5).ids,
        local.search_batch(halves.float(), k=5).ids,
    )
    assert local.search_batch(np.ones((3, DIMENSION), np.int64), k=5).counts.tolist() == [5] * 3


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ("jazz", "expected numbers, got texts"),
        ([["a"] * DIMENSION], "expected numbers, got texts"),
        (QUERIES.astype(np.complex64), "expected numbers, got complex64"),
        (QUERIES > 0, "expected numbers, got bool"),
        ([[*range(DIMENSION - 1), None]], "expected numbers, got other values"),
        ({"vector": [1]}, "expected numbers, got other values"),
        (np.zeros((1, DIMENSION), "M8[D]"), "expected numbers, got datetime64[D]"),
        ([[1.0, 2.0], [1.0]], "expected rows of numbers, all of one length, got array"),
        (None, "expected numbers, got other values"),
        ([], "expected [B, 16], got [0]"),
        (3.0, "expected [B, 16], got []"),
    ],
)
def test_what_holds_no_numbers_is_no_query(local: LocalSearcher, given: Any, got: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(f'queries: {got}')}$"):
        local.search_batch(given)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"k": 1.5}, "k: expected 1 to 10000, got 1.5"),
    ({"k": "10"}, "k: expected 1 to 10000, got '10'"),
    ({"k": True}, "k: expected 1 to 10000, got true"),
    ({"k": None}, "k: expected 1 to 10000, got None"),
    ({"k": np.float32(2)}, "k: expected 1 to 10000, got 2.0"),
    ({"n_probe": 1.5}, "n_probe: expected 1 to 2^63 - 1, got 1.5"),
    ({"n_probe": "4"}, "n_probe: expected 1 to 2^63 - 1, got '4'"),
    ({"n_probe": False}, "n_probe: expected 1 to 2^63 - 1, got false"),
    ({"mode": "fuzzy"}, "mode: expected 'exact' or 'bloom', got 'fuzzy'"),
    ({"mode": ["exact"]}, "mode: expected 'exact' or 'bloom', got array"),
    ({"refine": "some"}, "refine: expected None or 'all', got 'some'"),
    ({"refine": True}, "refine: expected None or 'all', got true"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments_of_a_search(
    local: LocalSearcher, shard: ShardSearcher, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        local.search_batch(QUERIES, **wrong)
    good = SearchRequest(vectors=QUERIES[:1])
    bad, other = asyncio.run(shard.search([SearchRequest(vectors=QUERIES[:1], **wrong), good]))
    assert isinstance(bad, InvalidRequest) and str(bad) == message
    assert isinstance(other, SearchReply)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"filter": 3}, "filter"),
        ({"fields": "title"}, "fields"),
        ({"min_coverage": "all"}, "min_coverage"),
        ({"min_seq": "last"}, "min_seq"),
        ({"timeout_s": "1 s"}, "timeout_s"),
        ({"keys": ["a"]}, "keys"),
        ({"keys": np.array([1.5])}, "keys"),
        ({"vectors": "jazz"}, "vector"),
    ],
)
def test_wrong_parts_of_a_request_fail_it_alone(shard: ShardSearcher, wrong: dict[str, Any], where: str) -> None:
    good = SearchRequest(vectors=QUERIES[:1])
    bad, other = asyncio.run(shard.search([SearchRequest(**{"vectors": QUERIES[:1], **wrong}), good]))
    assert isinstance(bad, InvalidRequest) and bad.where == where
    assert isinstance(other, SearchReply)


def test_numbers_of_numpy_are_whole_numbers(local: LocalSearcher) -> None:
    found = local.search_batch(QUERIES, k=np.int32(3), n_probe=np.uint8(4))  # type: ignore[arg-type]
    assert found.ids.shape == (2, 3)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (3, "filters: expected a text, None or one for each query, got 3"),
        (b"live_show", "filters: expected a text, None or one for each query, got bin"),
        ({"live_show": True}, "filters: expected a text, None or one for each query, got object"),
        ([None, 1], "queries[1].filter: expected a text or None, got 1"),
    ],
)
def test_what_is_no_filter(local: LocalSearcher, filters: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        local.search_batch(QUERIES, filters)
    for some in ((None, "live_show"), np.array([None, "live_show"], dtype=object)):
        assert local.search_batch(QUERIES, some, k=2).counts.tolist() == [2, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads: expected 1 to 4096, got 0"),
        ({"threads": 1.5}, "threads: expected 1 to 4096, got 1.5"),
        ({"device": "gpu"}, "device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ({"device": 3}, "device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got 3"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not there: PyTorch finds"),
        ({"partitions": ["a"]}, "partitions: expected whole numbers, got 'a'"),
        ({"partitions": [1.0]}, "partitions: expected whole numbers, got 1.0"),
        ({"partitions": [1, 1]}, "partitions: expected each once, got 1 twice"),
        ({"partitions": []}, "partitions: expected at least one, got none"),
        ({"partitions": 3}, "partitions: expected a list of numbers, got 3"),
        ({"window": 0}, "window: expected 1 to 1000, got 0"),
    ],
)
def test_wrong_arguments_of_loading(catalog: Catalog, wrong: dict[str, Any], message: str) -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        LocalSearcher.open(catalog.path, **wrong)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ShardSearcher.open(catalog.path, **wrong)
    assert torch.get_num_threads() == before


def test_partitions_that_there_are_not(catalog: Catalog) -> None:
    for number in (-1, 8):
        with pytest.raises(SnapshotError, match=f"has no partition {number}; it has 8"):
            LocalSearcher.open(catalog.path, partitions=[number])


def test_an_array_that_masks_numbers_is_no_query(local: LocalSearcher) -> None:
    masked = np.ma.masked_array(QUERIES, mask=QUERIES > 1)
    with pytest.raises(InvalidRequest, match=r"^queries: expected numbers, got an array that masks some$"):
        local.search_batch(masked)
    assert local.search_batch(np.ma.masked_array(QUERIES)).counts.tolist() == [10, 10]


def test_queries_without_numbers_have_no_dimensions(local: LocalSearcher) -> None:
    with pytest.raises(InvalidRequest, match=rf"queries\[0\].vector: expected {DIMENSION} dimensions, got 0$"):
        local.search_batch([[], []])


def test_a_set_of_filters_has_no_order(local: LocalSearcher) -> None:
    with pytest.raises(InvalidRequest, match=r"^filters: expected a text, None or one for each query, got "):
        local.search_batch(QUERIES, {"year = 1", "year = 2"})  # type: ignore[arg-type]


@pytest.mark.parametrize("copy", [pickle.dumps, deepcopy])
def test_a_searcher_stays_in_its_process(copy: Callable[[object], object], local: LocalSearcher) -> None:
    with pytest.raises(TypeError, match=r"^a searcher cannot be pickled or copied: open the snapshot"):
        copy(local)


def test_more_dimensions_than_a_cpu_searches_are_named_at_once(tmp_path: Path) -> None:
    schema = {"id": "id", "vector": {"dimension": 4_097, "metric": "ip"}, "fields": {}}
    publish({"id": [1]}, schema, tmp_path, vectors=np.ones((1, 4_097), np.float32), version="wide", partitions=1)
    with pytest.raises(SnapshotError, match=f"^{tmp_path}/wide: has 4097 dimensions; a CPU searches at most 4096$"):
        LocalSearcher.open(tmp_path / "wide", device="cpu")


@pytest.mark.parametrize("kind", [LocalSearcher, ShardSearcher, ExactSearch, Engine, Catalog])
@pytest.mark.parametrize("path", [5, None, b"films", ["films"], "", "films\0"])
def test_what_is_no_path_is_named(kind: Any, path: Any) -> None:
    with pytest.raises(ValueError, match=r"^path: expected a path, got \w+$"):
        kind.open(path)


@pytest.mark.parametrize("kind", [LocalSearcher, ShardSearcher, ExactSearch, Engine])
@pytest.mark.parametrize("value", [3, None, "click", {"default": "click"}])
def test_formulas_are_settings(kind: Any, value: Any, catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"^value: expected ValueSettings, got "):
        kind.open(str(catalog.path), value=value)


@pytest.mark.parametrize("kind", [LocalSearcher, ShardSearcher, ExactSearch])
@pytest.mark.parametrize("engine", [5, None, "films/v1"])
def test_a_searcher_is_opened_or_has_an_engine(kind: Any, engine: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^engine: expected an Engine, got .*; {kind.__name__}\.open\(path\) loads a sn"
    ):
        kind(engine)


def test_bytes_of_replies_are_a_whole_number(local: LocalSearcher) -> None:
    with pytest.raises(InvalidRequest, match=r"^max_reply_bytes: expected at least 1 or None, got '9'$"):
        ShardSearcher(local.engine, "9")  # type: ignore[arg-type]
