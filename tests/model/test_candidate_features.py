"""Traits: the stored vectors and categories that searches return to whoever diversifies."""

import asyncio
from typing import Any

import numpy as np
import pytest
from catalogs import make_items, make_requests

from silverray.router.http.client import HttpSearcher
from silverray.shard.api import InvalidRequest, SearchReply, SearchRequest
from silverray.shard.schema.keys import hash_text
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog


@pytest.mark.parametrize("kind", [ShardSearcher, ExactSearch])
def test_traits_are_those_of_the_items(catalog: Catalog, kind: type[ShardSearcher]) -> None:
    table, vectors = make_items(3_000)
    rows = {key: row for row, key in enumerate(table.column("id").to_pylist())}
    requests = make_requests(8, seed=5, ks=(1, 40), traits=("country", "artist"))
    for reply in asyncio.run(kind.open(catalog.path).search(requests)):
        assert isinstance(reply, SearchReply) and reply.traits is not None
        places = [rows[key] for key in reply.keys.tolist()]
        np.testing.assert_array_equal(reply.traits.vectors, vectors[places])
        for name, codes in zip(("country", "artist"), reply.traits.codes, strict=True):
            values = [table.column(name)[place].as_py() for place in places]
            assert codes.tolist() == [-1 if value is None else hash_text(value) for value in values]


def test_vectors_alone_and_nothing(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path)
    bare, plain = asyncio.run(
        searcher.search([*make_requests(1, seed=6, ks=(7,), traits=()), *make_requests(1, seed=6, ks=(7,))])
    )
    assert isinstance(bare, SearchReply) and isinstance(plain, SearchReply)
    assert bare.traits is not None and plain.traits is None
    assert bare.traits.vectors.shape == (len(bare.keys), 16) and bare.traits.codes.shape == (0, len(bare.keys))
    np.testing.assert_array_equal(bare.keys, plain.keys)


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"traits": ("country", "artits")}, "traits[1]", "no filterable category 'artits'; there are: country, artist"),
        ({"traits": ("title",)}, "traits[0]", "no filterable category 'title'"),
        ({"traits": ("year",)}, "traits[0]", "no filterable category 'year'"),
        ({"traits": (), "k": 1_001}, "k", "expected at most 1000 where traits are asked for, got 1001"),
    ],
)
def test_wrong_traits_are_refused(catalog: Catalog, given: dict[str, Any], where: str, message: str) -> None:
    request = SearchRequest(vectors=np.ones((1, 16), dtype=np.float32), **given)
    (error,) = asyncio.run(ShardSearcher.open(catalog.path).search([request]))
    assert isinstance(error, InvalidRequest) and error.where == where and message in error.message


def test_traits_do_not_travel_over_http() -> None:
    request = SearchRequest(vectors=np.ones((1, 4), dtype=np.float32), traits=())
    with pytest.raises(InvalidRequest, match="traits: the traits of items do not travel over HTTP"):
        asyncio.run(HttpSearcher("http://none").search([request]))
