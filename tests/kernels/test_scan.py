"""The scan's kernel against its reference, and the reference against a loop over slots."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from silverray.kernels import scan_reference
from silverray.kernels.codes import quantize_rows
from silverray.kernels.cpu import scan_launch
from silverray.kernels.programs import reference as evaluate
from silverray.kernels.scan import scan

from .cases import THREADS, Lists, ScanArguments, assert_same_rows, make_lists, threads, unpack

SHAPES = [
    # slots, dimensions, clusters, queries, probes, keep
    (1, 1, 1, 1, 1, 1),
    (15, 8, 3, 2, 2, 4),
    (16, 16, 1, 3, 1, 16),
    (17, 50, 2, 3, 2, 100),
    (63, 64, 5, 4, 3, 1),
    (64, 65, 1, 2, 1, 10),
    (65, 96, 40, 7, 40, 20),
    (511, 128, 7, 65, 3, 100),
    (512, 300, 4, 5, 4, 512),
    (513, 1000, 3, 4, 2, 50),
    (4095, 50, 1, 3, 1, 7),
    (4097, 16, 9, 17, 5, 300),
    (4099, 128, 600, 9, 300, 64),
    (20_011, 33, 3, 6, 2, 40),
]


def check(lists: Lists, keep: int) -> None:
    expected = scan_reference.scan(*lists.scan, keep)
    for number in THREADS:
        with threads(number):
            assert_same_rows(scan(*lists.scan, keep), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_agrees_with_the_reference(shape: tuple[int, ...]) -> None:
    *sizes, keep = shape
    check(make_lists(*sizes, seed=sum(shape)), keep)


@pytest.mark.parametrize("name", ["all", "none", "half", "sparse", "dense", "deep"])
def test_every_filter_is_applied_across_blocks_and_tiles(name: str) -> None:
    check(make_lists(9001, 24, 4, 3, 3, seed=3, filters=(name,), spare_words=5), 200)


@pytest.mark.parametrize("keep", [1, 100, 5000])
def test_equal_scores_are_kept_by_key_across_clusters_and_threads(keep: int) -> None:
    lists = make_lists(6000, 32, 12, 5, 9, seed=keep)
    lists.codes[:], lists.scales[:], lists.bases[:] = lists.codes[0].clone(), 0.5, 1.0
    check(lists, keep)
    lists.codes[::2] = 0
    check(lists, keep)


@pytest.mark.parametrize("keep", [1, 3, 40])
def test_a_buffer_that_every_slot_enters_is_cut_again_and_again(keep: int) -> None:
    lists = make_lists(20_000, 16, 2, 3, 2, seed=keep, filters=("all",))
    lists.codes[:], lists.queries[:], lists.bases[:] = 127, 1.0, -5.0
    lists.scales[:] = torch.arange(20_000) * 1e-4
    lists.probes[:] = torch.tensor([0, 1])
    check(lists, keep)
    lists.scales[:] = torch.arange(20_000) // 1000
    check(lists, keep)


def test_near_duplicates_negative_scores_and_no_kept_slots() -> None:
    lists = make_lists(3000, 64, 6, 5, 6, seed=8)
    lists.codes[:] = lists.codes[:30].repeat(100, 1)
    lists.codes[torch.arange(3000), torch.arange(3000) % 64] += 1
    lists.scales[:], lists.bases[:] = 0.01, -1000.0
    for keep in (0, 10, 3000):
        check(lists, keep)


def test_queries_are_quantised_as_the_reference_does_at_every_magnitude() -> None:
    lists = make_lists(700, 50, 3, 9, 3, seed=4, filters=("all",))
    lists.scales *= 1e-6
    lists.queries *= torch.tensor([0, 1e-45, 1e-42, 1e-38, 1e-30, 1e10, 1e30, 1e36, -1.0])[:, None]
    lists.queries[7, 0] = 3.4e38
    lists.queries[8] = torch.arange(50) / 254 - 0.1
    assert quantize_rows(lists.queries).values[1].abs().sum() == 0
    check(lists, 700)


def test_a_zero_and_a_negative_zero_are_equal_scores() -> None:
    lists = make_lists(256, 16, 2, 4, 2, seed=6, filters=("all",))
    lists.codes[:, :] = torch.where(torch.arange(256) % 2 == 0, -1, 1)[:, None]
    lists.scales[:], lists.bases[:], lists.queries[:] = 0, -0.0, 1
    check(lists, 30)


def test_a_score_that_overflows_to_minus_infinity_is_no_candidate() -> None:
    lists = make_lists(200, 16, 2, 3, 2, seed=4, filters=("all",))
    lists.probes[:] = torch.tensor([0, 1])
    lists.codes[:], lists.scales[:], lists.queries[:] = 127, 1e-3, -1e30
    lists.scales[::2] = 1e30
    assert (scan_reference.scan(*lists.scan, 150)[1] >= 0).sum(1).tolist() == [100, 100, 100]
    check(lists, 150)


def test_empty_lists_no_queries_no_probes_and_no_slots() -> None:
    lists = make_lists(100, 16, 3, 4, 3, seed=1)
    lists.offsets[1:3] = 100
    check(lists, 7)
    lists.probes[:] = -1
    check(lists, 7)
    for part in ("filters", "queries", "probes", "bases"):
        setattr(lists, part, getattr(lists, part)[:0])
    assert scan(*lists.scan, 7).places.shape == (0, 7)
    narrow = make_lists(100, 16, 3, 4, 3, seed=1)
    narrow.probes = narrow.probes[:, :0]
    assert (scan(*narrow.scan, 7).places == -1).all()
    check(make_lists(0, 16, 3, 4, 3, seed=1), 7)


def test_arguments_may_be_views_of_larger_tensors() -> None:
    lists = make_lists(1500, 50, 8, 6, 5, seed=2)
    expected = scan_reference.scan(*lists.scan, 60)
    views = []
    for part in lists.scan:
        wide = torch.zeros([2 * size + 3 for size in part.shape], dtype=part.dtype)
        view = wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)]
        views.append(view.copy_(part))
    assert_same_rows(scan(*ScanArguments._make(views), 60), expected)
    wide = torch.zeros(1501, 64 + 50, dtype=torch.int8)
    shifted = wide[1:, 3:53].copy_(lists.codes)
    planes = torch.cat([lists.planes, lists.planes], dim=1)[:, : lists.planes.shape[1]]
    assert planes.shape[1] % 8 == 0
    assert_same_rows(scan(*lists.scan._replace(codes=shifted, planes=planes), 60), expected)


def test_a_batch_larger_than_the_buffers_is_scanned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = make_lists(2000, 40, 5, 11, 4, seed=5)
    for buffer in (1, 2000, 5000):
        monkeypatch.setattr(scan_launch, "MAX_BUFFER", buffer)
        check(lists, 100)


def test_python_threads_may_scan_at_the_same_time() -> None:
    many = [make_lists(5000, 48, 12, 7, 6, seed=seed) for seed in range(8)]
    expected = [scan_reference.scan(*lists.scan, 30) for lists in many]

    def search(lists: Lists) -> tuple[Tensor, Tensor]:
        return scan(*lists.scan, 30)

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(search, many * 5), expected * 5, strict=True):
            assert_same_rows(found, wanted)


@pytest.mark.parametrize("d", [3, 64, 1500])
def test_the_reference_agrees_with_a_loop_over_slots(d: int) -> None:
    lists, keep = make_lists(257, d, 9, 5, 4, seed=d), 20
    lists.probes[1] = -1
    coded = quantize_rows(lists.queries)
    passing = unpack(evaluate(lists.planes, lists.programs)[lists.filters], 257)
    scores, places = scan_reference.scan(*lists.scan, keep)
    for query in range(5):
        expected = []
        for cluster in lists.probes[query].tolist():
            for slot in range(*(lists.offsets[cluster : cluster + 2].tolist() if cluster >= 0 else (0, 0))):
                if passing[query, slot]:
                    dot = coded.values[query].long() @ lists.codes[slot].long()
                    step = coded.scales[query].numpy() * lists.scales[slot].numpy()
                    score = lists.bases[query, cluster].numpy() + step * np.float32(dot)
                    expected.append((-score, int(lists.keys[slot]), slot))
        expected.sort()
        found = [slot for _, _, slot in expected[:keep]]
        assert places[query].tolist() == found + [-1] * (keep - len(found))
        assert scores[query, : len(found)].tolist() == [-score for score, _, _ in expected[:keep]]
