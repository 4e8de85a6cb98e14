"""Item features: numbers from stored columns, and descriptions that do not fit."""

import math

import pytest
import torch
from catalogs import schema_text
from divisions import OnDevice

from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.schema.columns import Column, Columns
from silverray.shard.schema.schema import Schema

SCHEMA = Schema.parse(schema_text())
DOCUMENT = [
    {"field": "rank", "transform": "log1p", "scale": 2.0},
    {"field": "year", "transform": "standardise", "mean": 2000.0, "deviation": 10.0},
    {"field": "year", "transform": "buckets", "boundaries": [1990.0, 2000.0]},
    {"field": "live_show", "transform": "standardise", "mean": 0.0, "deviation": 1.0},
]


def test_features_are_made_of_stored_values() -> None:
    columns = Columns(
        3,
        {
            "rank": Column(torch.tensor([0, 99, 7])),
            "year": Column(torch.tensor([1990, 0, 2010]), torch.tensor([True, False, True])),
            "live_show": Column(torch.tensor([1, 0, 1])),
            "price": Column(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        },
    )
    features = ItemFeatures.of(DOCUMENT).check(SCHEMA)
    assert features.width == 6
    with OnDevice():
        made = features(columns, torch.tensor([[0, 1], [2, 0]]))
    assert made.dtype == torch.float32
    first, missing, last = [0, -1, 0, 1, 0, 1], [math.log(100) / 2, 0, 0, 0, 0, 0], [math.log(8) / 2, 1, 0, 0, 1, 1]
    torch.testing.assert_close(made, torch.tensor([[first, missing], [last, first]]))


def test_features_are_finite_whatever_is_stored() -> None:
    numbers = torch.tensor([math.inf, -math.inf, 1e300, 5.0], dtype=torch.float64)
    given = [{"field": "price", "transform": "standardise", "mean": 0.0, "deviation": 0.5}]
    made = ItemFeatures.of(given)(Columns(4, {"price": Column(numbers)}), torch.arange(4)[None])
    assert made.flatten().tolist() == [2.0**63, -(2.0**63), 2.0**63, 10.0]


def test_no_features_are_no_numbers() -> None:
    assert ItemFeatures()(Columns(1, {}), torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 0)


def test_a_description_survives_being_written() -> None:
    features = ItemFeatures.of(DOCUMENT).check(SCHEMA)
    assert features.to_document() == DOCUMENT
    assert ItemFeatures.of(features.to_document()).check(SCHEMA).transformations == features.transformations


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"field": "artist", "transform": "log1p"}, r"item_features\[0\].field: expected one of year, rank, price"),
        ({"field": "title", "transform": "log1p"}, r"got 'title'"),
        ({"field": "rank", "transform": "square"}, r"item_features\[0\].transform: expected .*'buckets', got 'square'"),
        (
            {"field": "rank", "transform": "standardise", "mean": 0, "deviation": 0},
            r"item_features\[0\].standardise.deviation: expected more than 0, got 0",
        ),
        ({"field": "rank", "transform": "buckets", "boundaries": []}, "expected at least 1 items, got 0"),
        ({"field": "rank", "transform": "log1p", "base": 2}, "unknown key"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemFeatures.of([entry]).check(SCHEMA)
