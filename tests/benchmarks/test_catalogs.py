"""The generated catalogs: the same each time, of length 1, with duplicates, and with attributes of known shares."""

import numpy as np
import pytest

from silverray.benchmarks.common.catalogs import ClusteredCatalog, clustered, queries

ITEMS = 40_000


@pytest.fixture(scope="module")
def catalog() -> ClusteredCatalog:
    return clustered(ITEMS, 32, seed=3)


def test_the_same_seed_gives_the_same_catalog(catalog: ClusteredCatalog) -> None:
    again, other = clustered(ITEMS, 32, seed=3), clustered(ITEMS, 32, seed=4)
    assert np.array_equal(catalog.vectors, again.vectors)
    assert catalog.items.equals(again.items)
    assert not np.allclose(catalog.vectors[:100], other.vectors[:100])


def test_vectors_and_queries_have_length_1_and_queries_are_no_items(catalog: ClusteredCatalog) -> None:
    asked = queries(catalog, 50)
    assert catalog.vectors.shape == (ITEMS, 32)
    assert catalog.vectors.dtype == asked.dtype == np.float32
    for rows in (catalog.vectors, asked):
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    nearest = (asked @ catalog.vectors.T).max(axis=1)
    assert nearest.max() < 0.9999
    assert np.median(nearest) > 0.6
    assert np.array_equal(asked, queries(catalog, 50))


def test_two_percent_are_exact_and_ten_percent_near_duplicates(catalog: ClusteredCatalog) -> None:
    _, counts = np.unique(catalog.vectors, axis=0, return_counts=True)
    assert (counts - 1).sum() / ITEMS == pytest.approx(0.02, abs=0.003)
    sample = catalog.vectors[:2_000]
    products = sample @ catalog.vectors.T
    products[np.arange(len(sample)), np.arange(len(sample))] = 0
    # A neighbour at a relative distance of 0.1 has the cosine 0.995. Both sides of a pair see it.
    copied = (products.max(axis=1) > 1 - 0.1**2 / 2 - 1e-6).mean()
    assert 0.15 < copied < 0.30


def test_it_is_neither_noise_nor_a_few_points(catalog: ClusteredCatalog) -> None:
    topics = catalog.topics
    same = np.flatnonzero(topics == topics[0])
    inside = np.median(catalog.vectors[same] @ catalog.vectors[same].T)
    outside = np.median(catalog.vectors[same] @ catalog.vectors[topics != topics[0]].T)
    assert inside > outside + 0.2
    assert inside < 0.9
    spectrum = np.linalg.svd(catalog.vectors - catalog.vectors.mean(0), compute_uv=False) ** 2
    assert 0.5 < spectrum[:8].sum() / spectrum.sum() < 0.9


def test_attributes_pass_known_shares(catalog: ClusteredCatalog) -> None:
    items = catalog.items
    bucket = items.column("bucket").to_numpy()
    assert items.column_names == ["id", *catalog.schema.fields]
    assert np.array_equal(items.column("id").to_numpy(), np.arange(ITEMS))
    assert (bucket.min(), bucket.max()) == (0, 999)
    assert (bucket < 100).mean() == pytest.approx(0.1, abs=0.005)
    assert (bucket < 10).mean() == pytest.approx(0.01, abs=0.002)
    assert np.mean(items.column("safe").to_numpy()) == pytest.approx(0.9, abs=0.005)
    tags = items.column("tags").combine_chunks()
    assert len(np.unique(tags.flatten().to_numpy(zero_copy_only=False))) > 3_000
    lengths = tags.value_lengths().to_numpy()
    assert (lengths.min(), lengths.max()) == (0, 6)


def test_countries_follow_topics(catalog: ClusteredCatalog) -> None:
    country = catalog.items.column("country").to_numpy()
    _, counts = np.unique(country, return_counts=True)
    assert counts.max() > 5 * np.median(counts)
    topic, sizes = np.unique(catalog.topics, return_counts=True)
    mine = country[catalog.topics == topic[sizes.argmax()]]
    assert np.unique(mine, return_counts=True)[1].max() > 0.55 * len(mine)
