"""Top-k in a total order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silverray.kernels.topk import reference, top_k


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def test_top_k_is_the_head_of_a_full_sort(data: st.DataObject) -> None:
    rows, n, k = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 40)), data.draw(st.integers(0, 50))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    scores = rng.choice([1.0, 2.0, -3.0, 0.5, -0.0, 0.0, -np.inf], size=(rows, n)).astype(np.float32)
    keys = np.stack([rng.permutation(n) for _ in range(rows)]) if rows else np.zeros((0, n), np.int64)
    found = top_k(torch.from_numpy(scores), torch.from_numpy(keys).long(), k)
    for row in range(rows):
        order = [place for place in np.lexsort((keys[row], -scores[row])) if scores[row, place] > -np.inf][:k]
        assert found.places[row].tolist() == order + [-1] * (k - len(order))
        assert found.scores[row].tolist() == [scores[row, p] for p in order] + [-np.inf] * (k - len(order))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 40), st.integers(0, 999))
def test_top_k_of_a_concatenation_is_the_merge_of_top_ks(left: int, right: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, 5, (1, left + right)).astype(np.float32))
    keys = torch.from_numpy(rng.permutation(left + right))
    first, second = top_k(scores[:, :left], keys[:left], k), top_k(scores[:, left:], keys[left:], k)
    places = torch.cat([first.places, torch.where(second.places >= 0, second.places + left, -1)], dim=1)
    known = torch.cat([keys, keys.new_zeros(1)])[places]
    merged = top_k(torch.cat([first.scores, second.scores], dim=1), known, k)
    merged_places = places.gather(1, merged.places.clamp(min=0)) if k else merged.places
    whole = top_k(scores, keys, k)
    assert torch.equal(merged.scores, whole.scores)
    assert torch.equal(torch.where(merged.places >= 0, merged_places, -1), whole.places)


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 5_000, 5_000), (1, 5_000, 100), (5, 3_001, 700), (3, 200_000, 10)])
def test_the_kernel_agrees_with_the_reference_on_long_rows(rows: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n + k)
    scores = torch.randint(-n // 3, n // 3, (rows, n), generator=generator).float()
    scores[torch.rand(rows, n, generator=generator) < 0.1] = -torch.inf
    keys = torch.randperm(n, generator=generator)
    found = top_k(scores, keys, k)
    best, places = reference(scores, keys.expand_as(scores), k)
    assert torch.equal(found.scores, best)
    assert torch.equal(found.places, places)
