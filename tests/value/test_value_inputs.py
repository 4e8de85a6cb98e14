"""Reading fields of candidates and values of requests, and choosing among variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from silverray.shard.api import FormulaError, InvalidRequest
from silverray.shard.schema.keys import hash_text
from silverray.shard.value.inputs import NO_TAG, Values, gather_fields, read_requests
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.variants import ValueModels

from .evaluator import SCOPE, make_case


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"default": 5}, "default: expected a formula as text, or as keys and values, got 5"),
        ({"user": 5}, "user: expected keys and values, got 5"),
        ({"user": {"age": {"type": "number"}}}, "user.age.type: expected 'category', 'int'"),
        ({"formula": "click"}, "formula: unknown key"),
        ({"variants": {"a": "click"}}, "default: expected a formula where there are variants"),
    ],
)
def test_settings_that_are_wrong_are_named_in_our_words(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        ValueSettings(**values)
    assert type(caught.value) is ValueError


def test_fields_are_those_of_the_slots() -> None:
    case = make_case()
    slots = torch.tensor([[3, -1, 3], [0, 1, 2]])
    fields = gather_fields(case.columns, slots, ["year", "genres", "price"])
    year, genres, price = (case.columns.fields[name] for name in ("year", "genres", "price"))
    assert torch.equal(fields["year"].values, year.values[slots.clamp(min=0)])
    assert fields["year"].present is None
    assert torch.equal(fields["price"].present, price.present[slots.clamp(min=0)])  # type: ignore[arg-type,index]
    offsets = genres.offsets
    assert offsets is not None
    width = fields["genres"].values.shape[2]
    for row, column in ((0, 0), (0, 1), (1, 2)):
        slot = max(int(slots[row, column]), 0)
        tags = genres.values[offsets[slot] : offsets[slot + 1]].tolist()
        assert fields["genres"].values[row, column].tolist() == tags + [NO_TAG] * (width - len(tags))
    assert width == max(int(offsets[slot + 1] - offsets[slot]) for slot in (0, 1, 2, 3))


def test_no_candidates() -> None:
    case = make_case()
    fields = gather_fields(case.columns, torch.zeros(2, 0, dtype=torch.int64), ["year", "genres"])
    assert fields["year"].values.shape == (2, 0)
    assert fields["genres"].values.shape == (2, 0, 1)


def test_requests_are_read_as_stored_values() -> None:
    users = [{"country": "US", "taste": 1, "age": 7, "other": object()}, {"country": "", "taste": -0.5, "age": None}]
    found = read_requests(SCOPE.user, users, "user", ["user.age", "user.country", "user.taste", "context.hour"])
    assert set(found) == {"user.age", "user.country", "user.taste"}
    assert found["user.country"].values.tolist() == [hash_text("US"), hash_text("")]
    assert found["user.country"].present is None
    assert found["user.taste"].values.dtype == torch.float64
    assert found["user.age"].values.tolist() == [7, 0]
    assert found["user.age"].present is not None
    assert found["user.age"].present.tolist() == [True, False]
    (day,) = read_requests(SCOPE.context, [{"today": "1970-01-03"}], "context", ["context.today"]).values()
    assert day.values.tolist() == [2]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("hour", "7", "hour: expected an integer of 64 bits, got '7'"),
        ("hour", 7.0, "hour: expected an integer of 64 bits, got 7.0"),
        ("hour", True, "hour: expected an integer of 64 bits, got true"),
        ("hour", 2**63, "hour: expected an integer of 64 bits, got 9223372036854775808"),
        ("hour", None, "hour: expected a value, got none"),
        ("today", "2001-02-30", "today: expected a date such as \"2001-05-01\", got '2001-02-30'"),
        ("today", "20010501", "today: expected a date such as \"2001-05-01\", got '20010501'"),
        ("today", "2001-W05-3", "today: expected a date such as \"2001-05-01\", got '2001-W05-3'"),
        ("lang", 5, "lang: expected a string, got 5"),
        ("lang", "\ud83c", "lang: expected a string, got"),
        ("mobile", 1, "mobile: expected true or false, got 1"),
    ],
)
def test_wrong_values_are_named(name: str, value: Any, message: str) -> None:
    good = {"hour": 1, "today": "2001-05-01", "lang": "en", "mobile": True}
    with pytest.raises(InvalidRequest) as raised:
        read_requests(SCOPE.context, [good, good | {name: value}], "context", [f"context.{name}"])
    assert raised.value.message.startswith(message)
    assert raised.value.where == f"context[1].{name}"


@pytest.mark.parametrize("whole", [2**53 + 1, 2**64 + 1, -(10**30) - 1])
def test_a_float_that_float64_has_not_is_the_nearest(whole: int) -> None:
    (taste,) = read_requests(SCOPE.user, [{"country": "US", "taste": whole}], "user", ["user.taste"]).values()
    assert taste.values.tolist() == [float(whole)]


def test_a_number_beyond_float64_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="taste: expected a number, got an integer beyond 64 bits"):
        read_requests(SCOPE.user, [{"country": "US", "taste": 10**400}], "user", ["user.taste"])


FORMULAS: dict[str, str | Mapping[str, Any]] = {
    "default": "click",
    "b.2": {"*": [2, "like"]},
    "late": "if(context.hour > 20, year, duration is null)",
}


def test_each_request_has_its_variant() -> None:
    models, case = ValueModels(FORMULAS, SCOPE), make_case(requests=5)
    assert models.names == ("default", "b.2", "late")
    assert models.fields == ("year", "duration")
    assert models.inputs == ("context.hour",)
    fields = gather_fields(case.columns, case.slots, models.fields)
    variants = ["b.2", None, "late", "default", "b.2"]
    found = models(case.predictions, fields, case.inputs, variants)
    for row, variant in enumerate(variants):
        whole = models.select(variant)(case.predictions, fields, case.inputs)
        assert torch.equal(found[row], whole[row])
        assert torch.equal(models(case.predictions, fields, case.inputs, [variant] * 5), whole)
    assert not torch.equal(found[0], models.select()(case.predictions, fields, case.inputs)[0])


def test_an_unknown_variant_is_named() -> None:
    models = ValueModels(FORMULAS, SCOPE)
    with pytest.raises(InvalidRequest) as raised:
        models.select("c")
    assert (raised.value.message, raised.value.where) == ("no variant 'c'; there are: default, b.2, late", "variant")


def test_a_wrong_formula_says_which_it_is() -> None:
    with pytest.raises(FormulaError) as raised:
        ValueModels(FORMULAS | {"c": "2 * clik"}, SCOPE)
    assert str(raised.value) == "formulas.c: unknown name clik (at character 4; did you mean click?)"
    with pytest.raises(FormulaError) as raised:
        ValueModels({"default": {"+": [1, None]}}, SCOPE)
    assert raised.value.where == 'formulas.default["+"][1]'
    with pytest.raises(ValueError, match="formulas: expected one of the name 'default', got a, b"):
        ValueModels({"a": "click", "b": "like"}, SCOPE)


def test_long_lists_follow_the_model_to_its_device() -> None:
    models = ValueModels({"default": f"year in ({', '.join(map(str, range(0, 100, 7)))})"}, SCOPE)
    assert [buffer.tolist() for buffer in models.buffers()] == [list(range(0, 100, 7))]
    fields = {"year": Values(torch.tensor([[0, 1, 98, 99, 200, -5]]))}
    assert models(torch.zeros(1, 6, 3), fields, {}, [None]).tolist() == [[1, 0, 1, 0, 0, 0]]
