"""A generator of catalogs like real ones: clustered, rich in near-duplicates, with attributes to filter on.

Vectors are topic + sub-topic + item: sizes fall off by Zipf's law, every part has a decaying spectrum (half of the
variance in about 12 of 128 dimensions), spreads differ by topic, and 12 % of the items are copies of others: 2 % exact,
10 % at a relative distance of 1e-3 to 1e-1.

The constants were tuned until an inverted index behaves as on real embeddings. Recall of faiss IVF2048-Flat at 128
dimensions, on 825,000 real text vectors and on as many generated ones:

| probes | recall@10, real | generated | recall@100, real | generated |
|---|---|---|---|---|
| 8 | .979 | .961 | .959 | .941 |
| 32 | .997 | .993 | .990 | .989 |
| 128 | .999 | .998 | .998 | .997 |
| 128, filter of 1 % | | | .902 | .895 |
| 128, filter of 0.1 % | | | .417 | .420 |
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.shard.schema.schema import Schema

BLOCK = 32_768
"""Items made at a time: 16 MiB of 128 dimensions. It is part of the draw: another size makes another catalog."""
ITEMS_PER_SUBTOPIC = 220
"""About half of an inverted list at 2,048 clusters of a million, so that no list is one sub-topic. Tuned to the table
above, as all that follow up to the duplicates."""
SUBTOPICS_PER_TOPIC = 12
"""A topic then has 2,640 items, as many as five or six lists."""
ZIPF = 0.75
"""Of the sub-topics' sizes: the largest of a million items' holds 3 % of them. At 1 it would hold 11 %, at 0 all
would be alike."""
DECAY = 0.45
"""Of the spectrum: half of the variance lies in about 12 of 128 dimensions. At 0 all dimensions count alike, as in no
real embedding."""
SUBTOPIC_SPREAD = 0.75
"""Below 1, so that a topic's parts lie nearer to one another than topics do."""
ITEM_SPREAD = 0.75
"""Likewise of items in their sub-topic, on average: some sub-topics are narrow, some overlap their neighbours."""
NEAR_DUPLICATES = 0.10
"""Part of the items: real catalogs have versions and re-uploads, which make the best ten scores differ by little."""
EXACT_DUPLICATES = 0.02
"""Part of the items: enough that ties at the k-th place occur, which a recall by ids would count wrongly."""
COUNTRIES = 60
"""Below the 256 values up to which a category has a plane each, as a real list of countries is."""
LOYAL = 0.95
"""Chance that what a user liked besides is of the same topic. With less, more queries lie between topics."""
NOISE = 0.4
"""Most noise beside the items of a query, which have length 1 together; with none, a query of one item would be that
item."""
TAGS = 20_000
"""Far beyond the 256 values of exact planes, so that tags are hashed and verified."""
TAGS_PER_TOPIC = 40
"""So few that a tag goes with the vectors, as in real catalogs; drawn evenly, a filter would pass the same share
everywhere."""

Rng = np.random.Generator
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class ClusteredCatalog(NamedTuple):
    """Items with vectors and attributes.

    Attributes:
        vectors: `[N, D]` float32 of length 1.
        items: the columns `id` (0 … N - 1, the row numbers), `bucket`, `country`, `tags`, `year`, `price`, `safe`.
        schema: of `items`; the metric is cosine.
        topics: `[N]` int64 topic of each item.
    """

    vectors: Floats
    items: pa.Table
    schema: Schema
    topics: Ints


def clustered(items: int = 1_000_000, dimension: int = 128, seed: int = 0) -> ClusteredCatalog:
    """Generate a catalog.

    Args:
        items: N.
        dimension: D.
        seed: of everything.

    Returns:
        The catalog.

    Cost:
        Twice the memory of the vectors at most.
    """
    rng = np.random.default_rng(seed)
    subtopics = max(4, items // ITEMS_PER_SUBTOPIC)
    topic_of = np.sort(rng.integers(0, max(2, subtopics // SUBTOPICS_PER_TOPIC), subtopics))
    sizes = _zipf(subtopics, ZIPF)
    rng.shuffle(sizes)
    home = rng.choice(subtopics, items, p=sizes)
    vectors = _vectors(rng, home, topic_of, dimension)
    _duplicate(rng, vectors)
    topics = topic_of[home]
    return ClusteredCatalog(vectors, _attributes(rng, topics), schema(dimension), topics)


def schema(dimension: int) -> Schema:
    """The schema of a generated catalog."""
    return Schema.parse(
        f"""
        id: id
        vector: {{dimension: {dimension}, metric: cosine}}
        fields:
          bucket: {{type: int}}
          country: {{type: category}}
          tags: {{type: tags}}
          year: {{type: int}}
          price: {{type: float}}
          safe: {{type: bool}}
        """
    )


def queries(catalog: ClusteredCatalog, count: int, seed: int = 1) -> Floats:
    """Draw queries as users make them: a few items that a user liked, mostly of one topic, blended, and noise.

    Args:
        catalog: what they ask about.
        count: how many, B.
        seed: of the draw.

    Returns:
        `[B, D]` float32 of length 1; none is an item.
    """
    rng = np.random.default_rng([seed, count])
    order = np.argsort(catalog.topics, kind="stable")
    first = rng.integers(0, len(order), count)
    start = np.searchsorted(catalog.topics[order], catalog.topics[first], side="left")
    stop = np.searchsorted(catalog.topics[order], catalog.topics[first], side="right")
    blended = catalog.vectors[first].copy()
    for _ in range(2):
        same = order[rng.integers(start, stop)]
        other = np.where(rng.random(count) < LOYAL, same, rng.integers(0, len(order), count))
        blended += rng.uniform(0, 0.6, (count, 1)).astype(np.float32) * catalog.vectors[other]
    _normalise(blended)
    noise = rng.standard_normal(blended.shape, dtype=np.float32)
    _normalise(noise)
    blended += rng.uniform(0.05, NOISE, (count, 1)).astype(np.float32) * noise
    _normalise(blended)
    return blended


def _vectors(rng: Rng, home: Ints, topic_of: Ints, dimension: int) -> Floats:
    """Topic + sub-topic + item, each with a decaying spectrum, its axes' spreads varying by topic; then rotated."""
    spectrum = (np.arange(1, dimension + 1) ** -DECAY).astype(np.float32)
    spectrum /= np.linalg.norm(spectrum)
    rotation = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    topics = int(topic_of[-1]) + 1
    mean = 0.5 * spectrum * rng.standard_normal(dimension, dtype=np.float32)
    centres = mean + spectrum * rng.standard_normal((topics, dimension), dtype=np.float32)
    axes = spectrum * rng.lognormal(0, 0.5, (topics, dimension)).astype(np.float32)
    middles = rng.standard_normal((len(topic_of), dimension), dtype=np.float32)
    middles = centres[topic_of] + SUBTOPIC_SPREAD * axes[topic_of] * middles
    spread = ITEM_SPREAD * rng.lognormal(0, 0.35, (len(topic_of), 1)).astype(np.float32)
    vectors = np.empty((len(home), dimension), dtype=np.float32)
    for start in range(0, len(home), BLOCK):
        mine = home[start : start + BLOCK]
        block = rng.standard_normal((len(mine), dimension), dtype=np.float32)
        block *= axes[topic_of[mine]] * spread[mine]
        block += middles[mine]
        np.matmul(block, rotation, out=vectors[start : start + len(mine)])
        _normalise(vectors[start : start + len(mine)])
    return vectors


def _duplicate(rng: Rng, vectors: Floats) -> None:
    """Overwrite some rows by copies of others, most of them slightly changed."""
    count = len(vectors)
    kind = rng.random(count)
    originals = np.flatnonzero(kind >= NEAR_DUPLICATES + EXACT_DUPLICATES)
    exact = np.flatnonzero(kind < EXACT_DUPLICATES)
    near = np.flatnonzero((kind >= EXACT_DUPLICATES) & (kind < NEAR_DUPLICATES + EXACT_DUPLICATES))
    vectors[exact] = vectors[rng.choice(originals, len(exact))]
    for rows in np.split(near, range(BLOCK, len(near), BLOCK)):
        noise = rng.standard_normal((len(rows), vectors.shape[1]), dtype=np.float32)
        _normalise(noise)
        noise *= (10 ** rng.uniform(-3, -1, (len(rows), 1))).astype(np.float32)
        noise += vectors[rng.choice(originals, len(rows))]
        _normalise(noise)
        vectors[rows] = noise


def _attributes(rng: Rng, topics: Ints) -> pa.Table:
    count, kinds = len(topics), int(topics.max()) + 1
    at_home = rng.choice(COUNTRIES, kinds, p=_zipf(COUNTRIES, 1.1))[topics]
    country = np.where(rng.random(count) < 0.6, at_home, rng.choice(COUNTRIES, count, p=_zipf(COUNTRIES, 1.1)))
    names = pa.array([f"country-{number:02d}" for number in range(COUNTRIES)])
    return pa.table(
        {
            "id": np.arange(count),
            "bucket": rng.integers(0, 1_000, count),
            "country": names.take(pa.array(country)),
            "tags": _tags(rng, topics, kinds),
            "year": 2024 - np.minimum(rng.geometric(0.06, count), 90),
            "price": rng.lognormal(3, 1, count).round(2),
            "safe": rng.random(count) < 0.9,
        }
    )


def _tags(rng: Rng, topics: Ints, kinds: int) -> pa.Array:
    """0 to 6 tags an item, most of them from the few that are usual in its topic."""
    lengths = rng.integers(0, 7, len(topics))
    owners = np.repeat(topics, lengths)
    usual = rng.choice(TAGS, (kinds, TAGS_PER_TOPIC), p=_zipf(TAGS, 0.8))
    local = usual[owners, rng.choice(TAGS_PER_TOPIC, len(owners), p=_zipf(TAGS_PER_TOPIC, 0.8))]
    chosen = np.where(rng.random(len(owners)) < 0.8, local, rng.choice(TAGS, len(owners), p=_zipf(TAGS, 0.8)))
    names = pa.array([f"tag-{number:05d}" for number in range(TAGS)])
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(chosen)))


def _zipf(count: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, count + 1, dtype=np.float64)
    weights **= -exponent
    weights /= weights.sum()
    return weights


def _normalise(rows: Floats) -> None:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
