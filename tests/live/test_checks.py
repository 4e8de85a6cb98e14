"""What is refused when a whole catalog is published is refused when an item comes alone."""

from datetime import date, datetime
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.live.checks import WriteError, check
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog

SCHEMA = """
id: film
vector: {dimension: 2, metric: METRIC}
fields:
  country: {type: category}
  genres: {type: tags, nullable: true}
  year: {type: int, nullable: true}
  score: {type: float, nullable: true}
  nsfw: {type: bool, nullable: true}
  released: {type: date, nullable: true, filter: false}
"""


def make_catalog(folder: Path, metric: str = "cosine", ids: Any = (1, 2)) -> Catalog:
    n = len(ids)
    table = pa.table(
        {
            "film": pa.array(ids),
            "country": ["US"] * n,
            "genres": [["war"]] * n,
            "year": [1990] * n,
            "score": [0.5] * n,
            "nsfw": [False] * n,
            "released": [date(2001, 5, 31)] * n,
        }
    )
    vectors = np.ones((n, 2), dtype=np.float32)
    schema = Schema.parse(SCHEMA.replace("METRIC", metric))
    return publish(table, schema, folder, vectors=vectors, partitions=2, version="v1")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("films"))


def upsert(**changes: Any) -> Upsert:
    vector = np.array([3, 4], dtype=np.float32)
    return Upsert(**{"id": 7, "vector": vector, "fields": {"country": "FR"}, **changes})


def one(write: Write, catalog: Catalog) -> Write:
    (outcome,) = check([write], catalog)
    if isinstance(outcome, WriteError):
        raise outcome
    return outcome


def test_writes_get_one_form(films: Catalog) -> None:
    given = {
        "country": "FR",
        "genres": ["war", "war"],
        "year": -5,
        "score": -0.0,
        "nsfw": True,
        "released": "2001-05-31",
    }
    write = one(upsert(fields=given), films)
    assert isinstance(write, Upsert)
    assert write.vector.tolist() == [np.float32(0.6), np.float32(0.8)] and write.vector.dtype == np.float32
    assert write.fields == given | {"released": date(2001, 5, 31)}
    assert str(write.fields["score"]) == "0.0"
    assert write.space == films.vector_space == "v1"
    whole = one(upsert(fields={"country": "", "genres": [], "year": None, "score": float("nan")}), films)
    assert isinstance(whole, Upsert) and whole.fields == {"country": "", "genres": []}
    patch = one(Patch(7, {"year": None, "score": float("nan"), "released": date(1999, 1, 1)}), films)
    assert patch == Patch(7, {"year": None, "score": None, "released": date(1999, 1, 1)})
    assert one(Patch(7, {"score": 3}), films) == Patch(7, {"score": 3.0})
    assert one(Delete(2**63 - 1), films) == Delete(2**63 - 1)


def test_vectors_of_another_space_are_not_judged_by_this_ones_rules(films: Catalog) -> None:
    write = one(upsert(space="v2", vector=np.array([3, 4, 12], np.float32)), films)
    assert isinstance(write, Upsert) and (write.vector.tolist(), write.space) == ([3, 4, 12], "v2")
    with pytest.raises(WriteError, match="no field 'zz'"):
        one(upsert(space="v2", fields={"zz": 1}), films)


WRONG: list[tuple[Write, str, str | None, str]] = [
    (upsert(id=-1), "invalid_id", None, "id: expected an integer from 0 to 2^63 - 1, got integer -1"),
    (upsert(id=2**63), "invalid_id", None, "got integer 9223372036854775808"),
    (upsert(id=True), "invalid_id", None, "got boolean True"),
    (upsert(id="a"), "invalid_id", None, "got string 'a'"),
    (Delete(1.0), "invalid_id", None, "got number 1.0"),  # type: ignore[arg-type]
    (upsert(vector=np.ones(3, np.float32)), "invalid_vector", None, "vector: expected [2] numbers, got [3]"),
    (upsert(vector=np.ones((1, 2), np.float32)), "invalid_vector", None, "expected [2] numbers, got [1, 2]"),
    (upsert(vector=np.array([np.nan, 1], np.float32)), "invalid_vector", None, "holds NaN, infinity"),
    (upsert(vector=np.array([1, np.inf], np.float32)), "invalid_vector", None, "holds NaN, infinity"),
    (upsert(vector=np.zeros(2, np.float32)), "invalid_vector", None, "a vector of zeros has no cosine"),
    (upsert(space="x" * 201), "invalid_space", None, "space: expected a name of at most 200 bytes, got string 'xxx"),
    (upsert(space="v2", vector=np.ones((1, 2), np.float32)), "invalid_vector", None, "expected finite numbers"),
    (upsert(space="v2", vector=np.array([1, np.inf], np.float32)), "invalid_vector", None, "expected finite numbers"),
    (upsert(space="v2", vector=np.zeros(3, np.float32)), "invalid_vector", None, "not all of them zero"),
    (upsert(fields={}), "missing_field", "country", "fields.country: expected a value, the field is not nullable"),
    (upsert(fields={"country": None}), "missing_field", "country", "the field is not nullable"),
    (upsert(fields={"country": "US", "yaer": 1}), "unknown_field", "yaer", "no field 'yaer'; did you mean 'year'?"),
    (Patch(7, {"zz": 1}), "unknown_field", "zz", "there are: country, genres, year"),
    (Patch(7, {}), "missing_field", None, "fields: expected at least one"),
    (Patch(7, {"country": None}), "missing_field", "country", "the field is not nullable"),
    (Patch(7, {"country": 3}), "invalid_value", "country", "fields.country: expected a string, got integer 3"),
    (Patch(7, {"country": "\ud800"}), "invalid_value", "country", "expected a string, got string '\\ud800'"),
    (Patch(7, {"genres": "war"}), "invalid_value", "genres", "expected a list of strings, got string 'war'"),
    (Patch(7, {"genres": ["war", None]}), "invalid_value", "genres", "expected a list of strings, got array"),
    (Patch(7, {"year": 1.0}), "invalid_value", "year", "expected an integer of at most 64 bits, got number 1.0"),
    (Patch(7, {"year": True}), "invalid_value", "year", "got boolean True"),
    (Patch(7, {"year": 2**63}), "invalid_value", "year", "got integer 9223372036854775808"),
    (Patch(7, {"score": "1"}), "invalid_value", "score", "expected a number, got string '1'"),
    (Patch(7, {"score": 10**400}), "invalid_value", "score", "expected a number, got integer 1000"),
    (Patch(7, {"nsfw": 2}), "invalid_value", "nsfw", "expected true or false, got integer 2"),
    (Patch(7, {"nsfw": 1.0}), "invalid_value", "nsfw", "expected true or false, got number 1.0"),
    (Patch(7, {"released": "20010531"}), "invalid_value", "released", 'a date such as "2001-05-31", got str'),
    (Patch(7, {"released": "2001-W05-1"}), "invalid_value", "released", "got string '2001-W05-1'"),
    (Patch(7, {"released": "2001-02-30"}), "invalid_value", "released", "got string '2001-02-30'"),
    (Patch(7, {"released": datetime(2001, 5, 31, 12)}), "invalid_value", "released", "got datetime"),
    (Patch(7, {"genres": ["war", None]}), "invalid_value", "genres", "got array with null at [1]"),
    (Patch(7, {"genres": ["war", "x", 3]}), "invalid_value", "genres", "got array with integer 3 at [2]"),
    (Patch(7, {"score": 2**53 + 1}), "invalid_value", "score", "expected a number, got integer 9007199254740993"),
    (Patch(7, {"year": 10**5_000}), "invalid_value", "year", "got integer of 16610 bits"),
    (upsert(vector=np.array([1j, 1])), "invalid_vector", None, "vector: expected numbers, got complex128"),
    (upsert(vector=np.array([True, False])), "invalid_vector", None, "vector: expected numbers, got bool"),
]


@pytest.mark.parametrize(("write", "code", "field", "message"), WRONG)
def test_errors_name_the_part(films: Catalog, write: Write, code: str, field: str | None, message: str) -> None:
    with pytest.raises(WriteError) as caught:
        one(write, films)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert message in str(caught.value)


def test_an_unknown_name_of_any_length_is_answered_at_once(films: Catalog) -> None:
    start = process_time()
    with pytest.raises(WriteError) as caught:
        one(Patch(7, {"yaer" * 1_000_000: 1}), films)
    assert process_time() - start < 0.5  # comparing all of it takes seconds
    assert len(str(caught.value)) < 300 and caught.value.field == "yaer" * 25


def test_one_that_is_wrong_does_not_hinder_the_others(films: Catalog) -> None:
    writes = [write for write, *_ in WRONG]
    good = [upsert(id=n) for n in range(len(writes))]
    outcomes = check([write for pair in zip(writes, good, strict=True) for write in pair], films)
    assert all(isinstance(outcome, WriteError) for outcome in outcomes[::2])
    assert [outcome.id for outcome in outcomes[1::2] if isinstance(outcome, Upsert)] == list(range(len(writes)))
    assert check([], films) == []


def test_a_catalog_of_inner_products_keeps_lengths_and_zeros(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, "ip", ids=["a", "b"])
    zeros = one(upsert(id="é" * 256, vector=np.zeros(2, np.float32)), catalog)
    assert isinstance(zeros, Upsert) and zeros.vector.tolist() == [0, 0]
    for bad in ("", "é" * 257, 3, "\ud800"):
        with pytest.raises(WriteError, match="id: expected a string of 1 to 512 bytes"):
            one(Delete(bad), catalog)
