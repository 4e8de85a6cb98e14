"""Descriptions of requests: what is refused, and with which words."""

from pathlib import Path

import pyarrow as pa
import pytest
from request_tables import FORMAT

from silverray.shard.schema.user_features import BucketFeature, CategoryFeature, HashFeature, HistoryFeature
from silverray.shard.train.format import FormatError, RequestFormat


def test_columns_follow_from_the_description() -> None:
    assert FORMAT.tasks == ("liked", "watched")
    assert FORMAT.user.history == HistoryFeature("int", 3)
    assert FORMAT.user.categories == {
        "age": BucketFeature((18, 30)),
        "country": CategoryFeature(("US", "FR")),
        "city": HashFeature("string", 10),
    }
    schema = FORMAT.request_schema(pa.large_string(), pa.int64())
    names = ["request", "user", "time", "seen", "age", "country", "city", "items", "liked", "watched"]
    assert schema.names == names
    assert schema.field("request").type == pa.large_string()
    assert schema.field("seen").type == pa.large_list(pa.int64())
    assert not schema.field("seen").nullable
    assert schema.field("age").nullable
    assert "user" not in FORMAT.request_schema().names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [liked]", r"f\.yaml: user: missing key"),
        ("{tasks: [], user: {h: {type: history, ids: int}}}", r"f\.yaml: tasks: expected at least one"),
        ("{tasks: [a], user: {h: {type: history, ids: float}}}", r"f\.yaml: user\.h\.history\.ids"),
        ("{tasks: [a], user: {h: {type: history, ids: int, size: 3}}}", r"user\.h\.history\.size"),
        ("{tasks: [a], user: {h: {type: history, ids: int, length: 0}}}", r"user\.h\.history\.length"),
        ("{tasks: [a], user: {a: {type: history, ids: int}}}", "a: expected a column of one meaning, got two"),
        ("{tasks: [a], user: {item: {type: history, ids: int}}}", "item: expected a column of one meaning"),
        ("{tasks: [a], user: {c: {type: category, vocabulary: [x]}}}", "user: expected one history, got 0"),
        (
            "{tasks: [a], user: {h: {type: history, ids: int}, b: {type: bucket, boundaries: [2, 1]}}}",
            r"user\.b\.bucket\.boundaries: expected ascending numbers, got \[2",
        ),
        ("{tasks: [a], tasks: [b]}", "not readable as YAML|twice"),
        ("[", "not readable as YAML"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        RequestFormat.parse(text, "f.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.yaml"):
        RequestFormat.load(tmp_path / "none.yaml")
