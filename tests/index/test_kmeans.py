import pytest
import torch

from silverray.shard.index.kmeans import assign, default_clusters, train_centroids
from silverray.shard.index.recall import RecallCurve, measure_recall_curve


def blobs(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, 8, generator=generator) * 20
    return centres.repeat_interleave(50, 0) + torch.randn(1_000, 8, generator=generator) * 0.1


def test_separate_blobs_get_a_centroid_each_and_a_seed_gives_the_same_centroids() -> None:
    vectors = blobs()
    centroids = train_centroids(vectors, 20, seed=3)
    nearest, distances = assign(vectors, centroids)
    assert torch.bincount(nearest, minlength=20).tolist() == [50] * 20
    assert distances.max() < 1
    assert torch.equal(centroids, train_centroids(vectors, 20, seed=3))


def test_assignment_is_the_nearest_by_brute_force() -> None:
    vectors = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    centroids = vectors[:30]
    nearest, distances = assign(vectors, centroids)
    true = torch.cdist(vectors.double(), centroids.double()).square().min(1)
    assert torch.equal(nearest, true.indices)
    torch.testing.assert_close(distances.double(), true.values, atol=1e-4, rtol=1e-4)


def test_equal_vectors_and_as_many_clusters_as_vectors_do_not_fail() -> None:
    assert train_centroids(torch.ones(50, 4), 7).isfinite().all()
    vectors = torch.randn(5, 4)
    assert sorted(assign(vectors, train_centroids(vectors, 5))[0].tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="clusters: expected 1 to 5"):
        train_centroids(vectors, 6)


def test_default_number_of_clusters() -> None:
    assert [default_clusters(n) for n in (0, 1, 2, 100, 1_682, 400_000, 1_000_000)] == [1, 1, 2, 16, 64, 1024, 2048]


def test_the_recall_curve_reaches_its_target_on_its_own_kind_of_query() -> None:
    vectors = torch.randn(4_000, 8, generator=torch.Generator().manual_seed(2))
    centroids = train_centroids(vectors, 64)
    nearest, _ = assign(vectors, centroids)
    curve = measure_recall_curve(vectors, centroids, nearest, target=0.98)
    assert (curve.fractions.diff() >= 0).all()
    assert 0 < curve.fractions[0] < curve.fractions[-1] <= 1
    queries = torch.randn(100, 8, generator=torch.Generator().manual_seed(3)) * 0.8
    order = torch.argsort(queries @ centroids.T, dim=1, descending=True)
    sizes = torch.bincount(nearest, minlength=64)
    needed = int(curve.fraction(torch.tensor(100.0)) * 4_000)
    count = (sizes[order].cumsum(1) < needed).sum(1) + 1
    visited = torch.zeros(100, 64, dtype=torch.bool)
    visited.scatter_(1, order, torch.arange(64) < count[:, None])
    truth = torch.topk(queries @ vectors.T, 100).indices
    assert visited.gather(1, nearest[truth]).float().mean() > 0.95


def test_the_curve_interpolates_and_visits_everything_past_its_end() -> None:
    curve = RecallCurve(torch.tensor([1.0, 100.0]), torch.tensor([0.1, 0.5]))
    found = curve.fraction(torch.tensor([0.5, 1.0, 10.0, 100.0, 101.0, 1e9]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.1, 0.3, 0.5, 1.0, 1.0]))
