"""Schemas from YAML."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from silverray.shard.schema.schema import Field, Schema, SchemaError, VectorSpec

GOOD = """
id: film
vector: {dimension: 64, metric: cosine}
fields:
  title: {type: category, filter: false}
  date: {type: date, nullable: true}
  genres: {type: tags, payload: false}
"""


def test_a_schema_loads(tmp_path: Path) -> None:
    path = tmp_path / "films.yaml"
    path.write_text(GOOD)
    schema = Schema.load(path)
    assert (schema.id, schema.vector.dimension, schema.vector.metric) == ("film", 64, "cosine")
    assert schema.fields["date"] == Field(type="date", nullable=True, filter=True, payload=True)
    assert list(schema.filterable) == ["date", "genres"]
    assert Schema.model_validate(schema.model_dump()) == schema
    assert pickle.loads(pickle.dumps(schema)) == schema


VECTOR = "id: film\nvector: {dimension: 4, metric: ip}\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "films.yaml: expected keys and values, got null"),
        ("id: [", "films.yaml: not readable as YAML: "),
        ("id: film\nid: film\n", "films.yaml: not readable as YAML: key 'id' is given twice"),
        ("id: film\nfields: {}", "films.yaml: vector: missing key"),
        ("vector: {dimension: 4, metric: ip}\nfields: {}", "films.yaml: id: missing key"),
        ("id: film\nvector: {dimension: 0, metric: ip}\nfields: {}", "films.yaml: vector.dimension: "),
        (
            "id: film\nvector: {dimension: 131073, metric: ip}\nfields: {}",
            "films.yaml: vector.dimension: ",
        ),
        ("id: film\nvector: {dimension: 4, metric: l2}\nfields: {}", "films.yaml: vector.metric: "),
        (VECTOR + "fields: {}\nextra: 1", "films.yaml: extra: unknown key"),
        (VECTOR + "fields: {year: {type: integer}}", "films.yaml: fields.year.type: "),
        (VECTOR + "fields: {year: {type: int, nulable: true}}", "films.yaml: fields.year.nulable: "),
        (VECTOR + "fields: {year: {type: int, filter: 1}}", "films.yaml: fields.year.filter: "),
        (VECTOR + "fields: {year: {type: int}, year: {type: int}}", "films.yaml: not readable as YAML: key 'year'"),
        (VECTOR + "fields: {1st: {type: int}}", "films.yaml: fields.1st: expected letters"),
        (VECTOR + "fields: {no: {type: int}}", "films.yaml: fields.False: expected a string, got false"),
        (VECTOR + "fields: {grün: {type: int}}", "films.yaml: fields.grün: expected letters"),
        (VECTOR + "fields: {Not: {type: int}}", "films.yaml: fields.Not: a word of the filter language"),
        (VECTOR + "fields: {film: {type: int}}", "films.yaml: fields.film: the id column"),
        (VECTOR + "fields: {vector: {type: int}}", "films.yaml: fields.vector: the vector column"),
        ("id: vector\nvector: {dimension: 4, metric: ip}\nfields: {}", "films.yaml: id: "),
    ],
)
def test_errors_name_the_file_and_the_key(text: str, message: str) -> None:
    with pytest.raises(SchemaError) as error:
        Schema.parse(text, "films.yaml")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("id: 2001-13-45", "'2001-13-45' is no timestamp in "),
        ("id: !!int film", "'film' is no int in "),
        ("id: !!float film", "'film' is no float in "),
        ("id: !!bool film", "'film' is no bool in "),
        ("id: !!timestamp film", "'film' is no timestamp in "),
        ("vector: {dimension: " + "9" * 5_000, f"'{'9' * 60}' is no int in "),
        ("vector: !!map film", "expected keys and values in "),
        ("fields: {[year]: {type: int}}", "while constructing a mapping in "),
        ("fields: {1: {type: int}, 1: {type: int}}", "key 1 is given twice in "),
        ("id: " + "[" * 3_000 + "]" * 3_000, "nested too deeply"),
        ("fields: {a: {<<: &one {type: int}, <<: *one}}", "key '<<' is given twice in "),
    ],
)
def test_what_is_no_yaml_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SchemaError) as error:
        Schema.parse(text + ("}" if text.count("{") > text.count("}") else ""), "films.yaml")
    assert str(error.value).startswith(f"films.yaml: not readable as YAML: {message}")
    assert "\n" not in str(error.value)


def test_merge_keys_and_aliases_are_yaml_too() -> None:
    fields = "fields: {year: &whole {type: int, nullable: true}, month: *whole, day: {<<: *whole, nullable: false}}"
    schema = Schema.parse(VECTOR + fields)
    assert schema.fields["month"] == Field(type="int", nullable=True)
    assert schema.fields["day"] == Field(type="int", nullable=False)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="nowhere"):
        Schema.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("given", [5, None, b"id: x", [1], {"id": "x"}, Path("films.yaml")])
def test_what_is_no_text_is_no_yaml(given: Any) -> None:
    with pytest.raises(SchemaError, match=r"^schema: expected YAML as text, got \w+$"):
        Schema.parse(given)


@pytest.mark.parametrize("given", [5, None, b"films.yaml", ""])
def test_what_is_no_path_holds_no_schema(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^schema: expected a path, got \w+$"):
        Schema.load(given)


def test_half_a_surrogate_pair_is_no_text() -> None:
    rest = "fields: {}, vector: {dimension: 4, metric: ip}}"
    for text in ('{id: "a\\uD83C", ', '{id: id, "\\uD83C": 1, ', '{id: id, note: ["\\uDE00"], '):
        with pytest.raises(SchemaError, match="holds half a surrogate pair, which no text does"):
            Schema.parse(text + rest)
    for id_ in ("a\ud83c", "a\x1b"):
        with pytest.raises(ValueError, match="id: expected printable text"):
            Schema(id=id_, vector=VectorSpec(dimension=4, metric="ip"), fields={})
