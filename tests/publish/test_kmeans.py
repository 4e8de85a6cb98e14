import numpy as np
import pytest
import torch

from silverray.kernels.plans import plan_visits
from silverray.kernels.programs import Opcode, instruction
from silverray.shard.publish.kmeans import assign, default_clusters, train_centroids
from silverray.shard.publish.recall import DEPTHS, _nearest_items, measure_recall_curve
from silverray.shard.publish.vectors import BLOCK, ItemVectors
from silverray.shard.snapshot.recall_curve import RecallCurve


def blobs(seed: int = 0) -> ItemVectors:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, 8, generator=generator) * 20
    return given(centres.repeat_interleave(50, 0) + torch.randn(1_000, 8, generator=generator) * 0.1)


def given(vectors: torch.Tensor) -> ItemVectors:
    return ItemVectors(vectors.numpy(), "ip")


def uneven(n: int, dimension: int = 16) -> torch.Tensor:
    """Overlapping clusters of uneven size and spread."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(200, dimension, generator=generator)
    home = (torch.rand(n, generator=generator) ** 2 * 200).long()
    spread = torch.rand(200, 1, generator=generator)
    return centres[home] + spread[home] * torch.randn(n, dimension, generator=generator)


def test_separate_blobs_get_a_centroid_each_and_a_seed_gives_the_same_centroids() -> None:
    vectors = blobs()
    centroids = train_centroids(vectors, 20, seed=3)
    nearest, distances = assign(vectors, centroids)
    assert torch.bincount(nearest, minlength=20).tolist() == [50] * 20
    assert distances.max() < 1
    assert torch.equal(centroids, train_centroids(vectors, 20, seed=3))
    assert not torch.equal(centroids, train_centroids(vectors, 20, seed=4))


def test_centroids_are_about_as_good_as_those_of_a_long_plain_training() -> None:
    vectors = uneven(20_000)
    reference = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:64]]
    for _ in range(30):
        nearest = torch.cdist(vectors, reference).argmin(1)
        sums = torch.zeros_like(reference).index_add_(0, nearest, vectors)
        reference = sums / torch.bincount(nearest, minlength=64)[:, None]
    least = torch.cdist(vectors, reference).min(1).values.square().mean()
    found = assign(given(vectors), train_centroids(given(vectors), 64)).distances.mean()
    assert found < 1.06 * least


def test_spherical_centroids_have_length_1_and_point_where_their_vectors_do() -> None:
    vectors = ItemVectors(uneven(5_000).numpy(), "cosine")
    centroids = train_centroids(vectors, 32, spherical=True)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(32))
    everything = vectors.rows(np.arange(5_000))
    nearest = (everything @ centroids.T).argmax(1)
    sums = torch.zeros_like(centroids).index_add_(0, nearest, everything)
    assert torch.cosine_similarity(sums, centroids).min() > 0.95


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 1_201])
def test_assignment_is_the_nearest_by_brute_force(n: int) -> None:
    vectors = torch.randn(n, 8, generator=torch.Generator().manual_seed(1))
    centroids = torch.randn(30, 8, generator=torch.Generator().manual_seed(2))
    nearest, distances = assign(given(vectors), centroids)
    true = torch.cdist(vectors.double(), centroids.double()).square().min(1)
    assert torch.equal(nearest, true.indices)
    torch.testing.assert_close(distances.double(), true.values, atol=1e-4, rtol=1e-4)


def test_equal_vectors_and_as_many_clusters_as_vectors_do_not_fail() -> None:
    assert train_centroids(given(torch.ones(50, 4)), 7).isfinite().all()
    assert train_centroids(given(torch.ones(50, 4)), 7, spherical=True).isfinite().all()
    vectors = given(torch.randn(5, 4))
    assert sorted(assign(vectors, train_centroids(vectors, 5)).nearest.tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="clusters: expected 1 to 5"):
        train_centroids(vectors, 6)


def test_default_number_of_clusters() -> None:
    assert [default_clusters(n) for n in (0, 1, 2, 100, 1_682, 400_000, 1_000_000)] == [1, 1, 2, 16, 64, 1024, 2048]


def test_the_recall_curve_reaches_its_target_on_its_own_kind_of_query() -> None:
    vectors = torch.randn(4_000, 8, generator=torch.Generator().manual_seed(2))
    centroids = train_centroids(given(vectors), 64)
    nearest = assign(given(vectors), centroids).nearest
    curve = measure_recall_curve(given(vectors), centroids, nearest, target=0.98)
    assert (curve.fractions.diff() >= 0).all()
    assert 0 < curve.fractions[0] < curve.fractions[-1] <= 1
    queries = torch.randn(100, 8, generator=torch.Generator().manual_seed(3)) * 0.8
    order = torch.argsort(queries @ centroids.T, dim=1, descending=True)
    sizes = torch.bincount(nearest, minlength=64)
    needed = int(visits(curve, 4_000, [100])[0])
    count = (sizes[order].cumsum(1) < needed).sum(1) + 1
    visited = torch.zeros(100, 64, dtype=torch.bool)
    visited.scatter_(1, order, torch.arange(64) < count[:, None])
    truth = torch.topk(queries @ vectors.T, 100).indices
    assert visited.gather(1, nearest[truth]).float().mean() > 0.95


def test_the_curve_interpolates_and_visits_everything_past_its_end() -> None:
    curve = RecallCurve(torch.tensor([1.0, 100.0]), torch.tensor([0.125, 0.5]))
    assert visits(curve, 1_000, [1, 10, 100, 101, 1_000_000]).tolist() == [125, 313, 500, 1_000, 1_000]


def visits(curve: RecallCurve, items: int, ks: list[int]) -> torch.Tensor:
    """How many of all items the k best ask to be visited."""
    planes, programs = torch.full((1, items // 64 + 1), -1), torch.tensor([[instruction(Opcode.LOAD)]]).int()
    filters = torch.zeros(len(ks), dtype=torch.int64)
    return plan_visits(planes, programs, filters, torch.tensor(ks), curve.lines(), items, items, 0)[1][0]


def test_the_nearest_items_are_found_however_they_are_ordered() -> None:
    generator = torch.Generator().manual_seed(5)
    # Whole numbers, so that scores are exact and many are equal; ascending, so that floors rise all the time.
    vectors = torch.randint(-3, 4, (40 * BLOCK + 7, 4), generator=generator).float()
    vectors = vectors[vectors.sum(1).argsort()]
    queries = torch.ones(3, 4) * torch.tensor([[1.0], [2.0], [-1.0]])
    for k in (1, 100, len(vectors)):
        wanted = torch.argsort(queries @ vectors.T, dim=1, descending=True, stable=True)[:, :k]
        assert torch.equal(_nearest_items(given(vectors), queries, k), wanted)
    assert max(DEPTHS) < len(vectors)
