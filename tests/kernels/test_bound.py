"""Searching a bound index against the references of what it joins: planning and retrieving."""

import copy
import sys
from types import FrameType

import pytest
import torch

from silverray.kernels import plans, retrieve
from silverray.kernels.bound import Bound, Index, Searched, bind
from silverray.kernels.codes import quantize_rows
from silverray.kernels.cpu import bound as cpu_bound
from silverray.kernels.retrieve import Arguments
from silverray.kernels.rows import aligned_planes, aligned_rows

from .cases import THREADS, Lists, assert_same, make_lists, threads
from .test_plans import CURVE

K, KEEP = 10, 40


def index_of(lists: Lists) -> Index:
    coded = quantize_rows(lists.centroids)
    return Index(
        aligned_rows(lists.codes), lists.scales, aligned_rows(lists.vectors), lists.keys, lists.offsets,
        2 * lists.offsets.diff(), aligned_planes(lists.planes), aligned_rows(lists.centroids),
        aligned_rows(coded.values), coded.scales, CURVE.clone(),
    )  # fmt: skip


def items_of(index: Index) -> int:
    return int(index.sizes.sum())


def search(bound: Bound, lists: Lists, n_probe: int = -1, few: int = 0, k: int = K, keep: int = KEEP) -> Searched:
    wanted = torch.arange(1, len(lists.queries) + 1)
    return bound(lists.queries, lists.programs, lists.filters, wanted, n_probe, few, keep, k)


def expect(index: Index, lists: Lists, n_probe: int = -1, few: int = 0, k: int = K, keep: int = KEEP) -> Searched:
    slots, clusters = len(index.keys), len(index.sizes)
    none = torch.zeros_like(lists.filters)
    survivors, least, visit, passing = none.bool(), torch.full_like(none, n_probe), none, none
    if n_probe < 0:
        wanted = torch.arange(1, len(lists.queries) + 1)
        survivors, (visit, passing) = plans.reference(
            index.planes, lists.programs, lists.filters, wanted, index.curve, slots, items_of(index), few
        )
        least = torch.where(survivors, clusters, 1)
    asked = Arguments(
        index.codes, index.scales, index.vectors, index.keys, index.offsets, index.sizes, index.planes, lists.programs,
        lists.filters, lists.queries, index.centroids, index.centroid_codes, index.centroid_scales, survivors, least,
        visit, passing, few, keep, k, 0,
    )  # fmt: skip
    scores, places, _ = retrieve.reference(*asked)
    return Searched(scores, places, survivors, least, visit, passing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "clusters", "queries"),
    [(0, 16, 5, 2), (1, 1, 1, 1), (64, 16, 2, 1), (513, 50, 17, 1), (2_000, 33, 60, 1), (4_097, 128, 64, 30)],
)
def test_a_bound_search_agrees_with_planning_and_retrieving(
    n: int, d: int, clusters: int, queries: int, dtype: torch.dtype
) -> None:
    for seed in range(6 if queries == 1 else 1):  # one query has one of the filters
        lists = make_lists(n, d, clusters, queries, seed=n + seed, dtype=dtype)
        index = index_of(lists)
        bound = bind(index, items_of(index))
        for n_probe, few in ((-1, 0), (-1, n // 3), (-1, n + 1), (0, 100), (3, 100), (1 << 62, 100)):
            expected = expect(index, lists, n_probe, few)
            for number in THREADS:
                with threads(number):
                    assert_same(search(bound, lists, n_probe, few), expected)


def test_any_number_of_items_may_be_asked_for() -> None:
    lists = make_lists(700, 24, 20, 1, seed=4, filters=("dense",))
    index = index_of(lists)
    bound = bind(index, items_of(index))
    for k, keep in ((1, 1), (1, 0), (699, 700), (700, 30), (2_000, 2_000)):
        for few in (0, 700):
            assert_same(search(bound, lists, few=few, k=k, keep=keep), expect(index, lists, few=few, k=k, keep=keep))


def test_a_batch_larger_than_the_buffers_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = make_lists(3_000, 40, 12, 11, seed=5)
    index = index_of(lists)
    for buffer in (1, 2_000, 5_000):
        monkeypatch.setattr(cpu_bound, "MAX_BUFFER", buffer)
        assert_same(search(bind(index, items_of(index)), lists), expect(index, lists))


def test_no_queries_find_nothing() -> None:
    lists = make_lists(300, 16, 5, 6)
    lists.queries, lists.filters = lists.queries[:0], lists.filters[:0]
    index = index_of(lists)
    assert search(bind(index, items_of(index)), lists).slots.shape == (0, K)


def test_what_is_written_in_place_is_searched() -> None:
    before, after = (make_lists(900, 24, 9, 1, seed=seed, filters=("half",)) for seed in (1, 2))
    index = index_of(before)
    bound = bind(index, 2 * 900)
    for few in (0, 900):
        search(bound, before, few=few)
    for mine, new in zip(index, index_of(after), strict=True):
        mine.copy_(new)
    for few in (0, 900):
        assert_same(search(bound, after, few=few), expect(index_of(after), after, few=few))


def test_a_copy_searches_the_copied_tensors() -> None:
    lists = make_lists(900, 24, 9, 1, seed=1, filters=("half",))
    index = index_of(lists)
    bound = bind(index, items_of(index))
    expected, other = search(bound, lists), copy.deepcopy(bound)
    for part in index:
        part.zero_()
    assert_same(search(other, lists), expected)


def test_queries_may_be_views_of_larger_tensors() -> None:
    lists = make_lists(1_100, 50, 9, 7, seed=2)
    index = index_of(lists)
    expected = expect(index, lists, few=400)
    for name in ("queries", "programs", "filters"):
        part = getattr(lists, name)
        wide = torch.zeros([2 * size + 3 for size in part.shape], dtype=part.dtype)
        setattr(lists, name, wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)].copy_(part))
    assert_same(search(bind(index, items_of(index)), lists, few=400), expected)


@pytest.mark.parametrize("name", Index._fields)
def test_what_a_kernel_cannot_read_is_not_bound(name: str) -> None:
    index = index_of(make_lists(130, 24, 6, 5, seed=1))
    part = getattr(index, name)
    wide = torch.zeros([2 * size for size in part.shape], dtype=part.dtype)
    spread = wide[tuple(slice(0, None, 2) for _ in part.shape)].copy_(part)
    for wrong in (part[..., :-1], part.to(torch.float16), spread):
        with pytest.raises(ValueError, match=r"\w+: expected"):
            bind(index._replace(**{name: wrong}), 260)


@pytest.mark.parametrize("name", ["queries", "programs", "filters", "wanted"])
def test_every_argument_of_another_type_or_shape_is_refused(name: str) -> None:
    lists = make_lists(130, 24, 6, 5, seed=1)
    index = index_of(lists)
    given = {
        "queries": lists.queries,
        "programs": lists.programs,
        "filters": lists.filters,
        "wanted": lists.filters + 1,
    }
    for wrong in (given[name].to(torch.float64), given[name][..., None], given[name].sum()):
        with pytest.raises(ValueError, match=rf"{name}: expected"):
            bind(index, 260)(**{**given, name: wrong}, n_probe=-1, few=0, keep=KEEP, k=K)


@pytest.mark.parametrize("few", [0, 900])
def test_a_search_is_one_call_of_a_kernel(few: int) -> None:
    lists = make_lists(900, 24, 9, 1, seed=1, filters=("half",))
    index = index_of(lists)
    bound = bind(index, items_of(index))
    search(bound, lists, few=few)
    called: list[str] = []

    def see(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            called.append(getattr(argument, "__name__", frame.f_code.co_name))

    wanted = torch.ones(1, dtype=torch.int64)
    sys.setprofile(see)
    bound(lists.queries, lists.programs, lists.filters, wanted, -1, few, KEEP, K)
    sys.setprofile(None)
    assert len(called) < 50, called
    assert called.count("empty") == 4, called  # what is returned
