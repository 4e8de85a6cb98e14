"""The exact scan's kernel against its reference, in order."""

import pytest
import torch

from silverray.kernels import scan_reference
from silverray.kernels.bits import read_bits
from silverray.kernels.cpu import scan_launch
from silverray.kernels.programs import reference as evaluate
from silverray.kernels.rows import aligned_rows
from silverray.kernels.scan import exact_scan
from silverray.kernels.scores import exact_scores

from .cases import THREADS, ExactScanArguments, Lists, assert_same, make_lists, threads
from .test_scan import SHAPES

CACHES = [torch.float32, torch.bfloat16]


def check(lists: Lists, k: int) -> None:
    expected = scan_reference.exact_scan(*lists.exact_scan, k)
    for number in THREADS:
        with threads(number):
            assert_same(exact_scan(*lists.exact_scan, k), expected)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_agrees_with_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    *sizes, k = shape
    check(make_lists(*sizes, seed=sum(shape), dtype=dtype), k)


def test_the_answer_is_the_sorted_exact_scores_of_what_passes() -> None:
    lists = make_lists(500, 48, 3, 4, 3, seed=1)
    lists.probes[:] = torch.tensor([2, 0, 1])
    found = exact_scan(*lists.exact_scan, 500)
    bits = evaluate(lists.planes, lists.programs)[lists.filters]
    for query in range(4):
        slots = torch.nonzero(read_bits(bits[query : query + 1], torch.tensor(0), torch.arange(500)))[:, 0]
        scores = exact_scores(lists.vectors, lists.queries, torch.full_like(slots, query), slots)
        order = torch.argsort(scores, descending=True)
        assert found.places[query, : len(slots)].tolist() == slots[order].tolist()
        assert found.scores[query, : len(slots)].tolist() == scores[order].tolist()
        assert (found.places[query, len(slots) :] == -1).all()


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("k", [1, 50, 4000])
def test_equal_scores_are_ordered_by_key_across_clusters_and_threads(k: int, dtype: torch.dtype) -> None:
    lists = make_lists(5000, 40, 11, 4, 8, seed=k, dtype=dtype)
    lists.vectors[:] = lists.vectors[:3].repeat(1667, 1)[:5000]
    check(lists, k)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("d", [8, 16, 128])
def test_a_zero_and_a_negative_zero_are_equal_scores(d: int, dtype: torch.dtype) -> None:
    lists = make_lists(300, d, 2, 3, 2, seed=d, dtype=dtype, filters=("all",))
    lists.vectors[::2] = -lists.vectors[::2].abs()
    lists.queries[:] = 0
    check(lists, 20)


def test_magnitudes_up_to_infinity_and_down_to_denormals() -> None:
    lists = make_lists(300, 32, 2, 4, 2, seed=9, filters=("all",))
    lists.vectors = lists.vectors.abs() * 1e20
    lists.queries = lists.queries.abs() * torch.tensor([1e-45, 1e-30, 1e15, 1e20])[:, None]
    assert exact_scan(*lists.exact_scan, 5).scores[3, 0] == torch.inf
    check(lists, 30)


def test_a_score_that_overflows_to_minus_infinity_is_no_candidate() -> None:
    lists = make_lists(50, 16, 1, 1, 1, seed=9, filters=("all",))
    lists.probes[:], lists.vectors, lists.queries = 0, lists.vectors.abs() * 1e25, -lists.queries.abs() * 1e25
    lists.vectors[:10] *= -1e-20
    assert (scan_reference.exact_scan(*lists.exact_scan, 20)[1][0] >= 0).sum() == 10
    check(lists, 20)


def test_arguments_may_be_views_of_larger_tensors_with_any_finite_numbers_between() -> None:
    for dtype in CACHES:
        lists = make_lists(900, 50, 6, 5, 4, seed=2, dtype=dtype)
        expected = scan_reference.exact_scan(*lists.exact_scan, 40)
        views = []
        for part in lists.exact_scan:
            wide = torch.full([2 * size + 3 for size in part.shape], 7, dtype=part.dtype)
            view = wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)]
            views.append(view.copy_(part))
        assert_same(exact_scan(*ExactScanArguments._make(views), 40), expected)
        memory = aligned_rows(torch.full((900, 112), 7.0).to(dtype))
        cut = memory[:, :50].copy_(lists.vectors)
        assert aligned_rows(cut) is cut
        assert_same(exact_scan(*lists.exact_scan._replace(vectors=cut), 40), expected)


def test_a_batch_larger_than_the_buffers_is_scanned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_launch, "MAX_BUFFER", 2000)
    check(make_lists(2000, 40, 5, 11, 4, seed=5), 100)


def test_nothing_is_found_without_queries_probes_or_slots() -> None:
    for lists in (
        make_lists(0, 16, 3, 4, 3),
        make_lists(90, 16, 3, 4, 0),
        make_lists(90, 16, 3, 4, 3, filters=("none",)),
    ):
        check(lists, 5)
        assert (exact_scan(*lists.exact_scan, 5).places == -1).all()
    check(make_lists(90, 16, 3, 4, 3), 0)
