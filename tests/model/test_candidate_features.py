"""Candidate features: the stored vectors and categories that searches return to whoever diversifies."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from catalogs import make_items, make_requests
from queries import ask_featured, make_batch

from silverray.shard.api import SearchReply
from silverray.shard.engine.validation import Validator
from silverray.shard.query import QueryBatch
from silverray.shard.result_batch import FeaturedReply
from silverray.shard.schema.keys import hash_text
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog


@pytest.mark.parametrize("kind", [ShardSearcher, ExactSearch])
def test_features_are_those_of_the_items(catalog: Catalog, kind: type[ShardSearcher]) -> None:
    table, vectors = make_items(3_000)
    rows = {key: row for row, key in enumerate(table.column("id").to_pylist())}
    requests = make_requests(8, seed=5, ks=(1, 40))
    for reply in ask_featured(kind.open(catalog.path), requests, ("country", "artist")):
        places = [rows[key] for key in reply.keys.tolist()]
        np.testing.assert_array_equal(reply.features.vectors, vectors[places])
        for name, codes in zip(("country", "artist"), reply.features.codes, strict=True):
            values = [table.column(name)[place].as_py() for place in places]
            assert codes.tolist() == [-1 if value is None else hash_text(value) for value in values]


def test_vectors_alone_and_nothing(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path)
    (bare,) = ask_featured(searcher, make_requests(1, seed=6, ks=(7,)))
    (plain,) = asyncio.run(searcher.search(make_requests(1, seed=6, ks=(7,))))
    assert type(plain) is SearchReply
    assert bare.features.vectors.shape == (len(bare.keys), 16) and bare.features.codes.shape == (0, len(bare.keys))
    np.testing.assert_array_equal(bare.keys, plain.keys)


def test_a_batch_may_mix_queries_with_features_and_without(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path)
    queries = list(make_batch(Validator(catalog), make_requests(4, seed=7, ks=(5, 7), fields=("title",))))
    mixed = [replace(query, features=(None, ("country",))[row % 2]) for row, query in enumerate(queries)]
    rows = asyncio.run(searcher.answer(QueryBatch.of(mixed))).rows()
    assert [type(row) for row in rows] == [SearchReply, FeaturedReply] * 2
    for query, row in zip(mixed, rows, strict=True):
        (alone,) = asyncio.run(searcher.answer(QueryBatch.of([query]))).rows()
        assert isinstance(row, SearchReply) and isinstance(alone, SearchReply)
        assert row.keys.tolist() == alone.keys.tolist() and row.fields == alone.fields
        if isinstance(row, FeaturedReply) and isinstance(alone, FeaturedReply):
            np.testing.assert_array_equal(row.features.codes, alone.features.codes)
            np.testing.assert_array_equal(row.features.vectors, alone.features.vectors)
