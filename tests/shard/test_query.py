from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np

from silverray.shard.filter.compiler import CompiledFilter, Plan
from silverray.shard.query import Options, Query, QueryBatch, UserQuery
from silverray.shard.value.valuer import FormulaInputs

NOTHING = Plan(np.zeros(1, dtype=np.int32), None)


def compiled(text: str | None = None) -> CompiledFilter:
    return CompiledFilter(text, None, NOTHING, NOTHING)


def make_queries() -> list[Query]:
    vectors = np.random.default_rng(3).standard_normal((3, 2, 4)).astype(np.float32)
    shared = compiled()
    return [
        Query(vectors=vectors[0], filter=shared, k=10, timeout_s=0.25, keys=np.array([4, 9])),
        Query(
            vectors=vectors[1],
            filter=compiled("a = 1"),
            k=7,
            fields=("title", "year"),
            mode="bloom",
            n_probe=3,
            formula=FormulaInputs("late", {"hour": 5}),
            quotas=(1, 2),
        ),
        Query(
            vectors=vectors[2],
            filter=shared,
            k=10,
            refine_all=True,
            min_coverage=0.5,
            min_seq=9,
            explain=True,
            features=("artist",),
        ),
    ]


def travelled(batch: QueryBatch) -> QueryBatch:
    made: QueryBatch = pickle.loads(pickle.dumps(batch, protocol=5))
    return made


def assert_same(one: Query, other: Query) -> None:
    for name in {field.name for field in fields(Query)} - {"filter", "vectors", "keys"}:
        assert getattr(one, name) == getattr(other, name), name
    assert one.filter.text == other.filter.text
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert (one.keys is None) == (other.keys is None)
    if one.keys is not None and other.keys is not None:
        assert one.keys.tolist() == other.keys.tolist()


def test_every_option_travels() -> None:
    columns = {field.name for field in fields(QueryBatch)} - {"vectors", "filters", "filter_of"}
    routers = {"filter", "diversify", "min_score"}  # which has columns of its own, and which the router deals with
    assert columns == {field.name for field in fields(Options)} - routers
    queries = make_queries()
    batch = travelled(QueryBatch.of(queries))
    assert len(batch) == 3 and len(batch.filters) == 2
    for got, sent in zip(batch, queries, strict=True):
        assert_same(got, sent)


def test_what_queries_share_travels_once() -> None:
    shared = compiled("x" * 5_000)
    batch = travelled(QueryBatch.of([Query(vectors=np.zeros((1, 4), np.float32), filter=shared, k=1)] * 64))
    assert len(pickle.dumps(batch, protocol=5)) < 10_000
    assert len({id(query.filter) for query in batch}) == 1


def test_some_of_a_batch() -> None:
    queries = make_queries()
    for got, place in zip(QueryBatch.of(queries).take([2, 0, 2]), (2, 0, 2), strict=True):
        assert_same(got, queries[place])


def test_queries_that_are_alike_are_as_queries_one_by_one() -> None:
    vectors = np.random.default_rng(3).standard_normal((3, 1, 4)).astype(np.float32)
    filters = [compiled("a"), compiled("b")]
    batch = QueryBatch.alike(vectors, filters, np.array([1, 0, 1]), Options(filter=filters[0], k=5, n_probe=2))
    for row, query in enumerate(batch):
        assert_same(query, Query(vectors=vectors[row], filter=filters[(1, 0, 1)[row]], k=5, n_probe=2))


def test_a_user_with_vectors_is_a_query_with_the_same_options() -> None:
    (_, query, _) = make_queries()
    options = {field.name: getattr(query, field.name) for field in fields(Options)}
    assert_same(UserQuery(user={"age": 3}, **options).encoded(query.vectors), query)
