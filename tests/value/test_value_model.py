"""Compiled formulas against the plain evaluator, their rules for what has no answer, and how they compile."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from divisions import OnDevice

from silverray.shard.schema.keys import hash_text
from silverray.shard.value.inputs import NO_TAG, Values, gather_fields
from silverray.shard.value.language import parse
from silverray.shard.value.model import ValueModel
from silverray.shard.value.scope import Scope
from silverray.shard.value.syntax import Syntax
from silverray.shard.value.valuer import Valuation, evaluated

from .evaluator import SCHEMA, SCOPE, Case, Formulas, evaluate, make_case

EXAMPLE = '1.0*click + 4.0*share*(country == "US") + if(duration > 600, 0.2, 1.0)*like'


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


def expected(tree: Syntax, case: Case, number: object) -> torch.Tensor:
    with np.errstate(all="ignore"):
        rows = [[float(evaluate(tree, row, number)) for row in rows] for rows in case.rows]  # type: ignore[arg-type]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_example(case: Case) -> None:
    model = ValueModel(EXAMPLE, SCOPE)
    assert model.fields == ("country", "duration")
    assert model.inputs == ()
    found = case.score(model)
    assert found.dtype == torch.float32
    for scores, rows in zip(found.tolist(), case.rows, strict=True):
        for score, row in zip(scores, rows, strict=True):
            if all(abs(row[task]) < 10 for task in ("click", "share", "like")):
                weight = 0.2 if row["duration"] is not None and row["duration"] > 600 else 1.0
                total = row["click"] + 4 * row["share"] * (row["country"] == "US") + weight * row["like"]
                assert score == pytest.approx(total, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_plain_evaluator(case: Case, seed: int) -> None:
    formulas, unstable, checked = Formulas(seed), 0, 0
    for number in range(25):
        text = formulas.number(1 + number % 4)
        tree = parse(text)
        found = case.score(ValueModel(text, SCOPE)).double()
        single, double = expected(tree, case, np.float32), expected(tree, case, float)
        size = double.abs().clamp(min=1)
        # What rounding alone can decide, such as a comparison of nearly equal numbers, is left out.
        stable = (single - double).abs() <= 1e-5 * size
        wrong = stable & ((found - double).abs() > 1e-3 * size)
        assert not wrong.any(), (text, found[wrong], double[wrong], [case.rows[b][k] for b, k in wrong.nonzero()][:1])
        assert found.isfinite().all()
        unstable, checked = unstable + int((~stable).sum()), checked + stable.numel()
    assert unstable < 0.15 * checked


@pytest.mark.parametrize(
    "text, score",
    [
        ("1 / 0", 0.0),
        ("like / 0", 0.0),
        ("1 / (click - click)", 0.0),
        ("(click - click) / (click - click)", 0.0),
        ("0 / (click * 1e-39)", 0.0),
        ("1e-30 / (click * 1e-39)", 2e9),
        ("log(0)", math.log(1e-30)),
        ("log(click - 5)", math.log(1e-30)),
        ("log1p(-7)", math.log(2**-20)),
        ("log1p(click - 7)", math.log(2**-20)),
        ("sqrt(click - 7)", 0.0),
        ("exp(1000)", 3.4028234663852886e38),
        ("exp(1000 * click)", 3.4028234663852886e38),
        ("exp(1000 * click) - exp(1000 * click)", 0.0),
        ("0 * exp(1000 * click)", 0.0),
        ("exp(1000 * click) * -exp(999 * click)", -3.4028234663852886e38),
        ("1e30 * click / 1e-30", 3.4028234663852886e38),
        ("pow(0, -1)", 0.0),
        ("pow(click - 0.5, -2)", 0.0),
        ("pow(click - 2.5, 0.5)", 0.0),
        ("pow(click - 2.5, 2)", 4.0),
        ("pow(click - 2.5, 1 + 2)", -8.0),
        ("pow(-2, click - 0.5)", 1.0),
        ("pow(10, 100)", 3.4028234663852886e38),
        ("pow(-10 * click, 101)", -3.4028234663852886e38),
        ("like", 0.0),
        ("share", 1e9),
        ("-share * 2", -2e9),
        ("true + true", 2.0),
        ("2 > 1", 1.0),
        ("7", 7.0),
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("2 - 3 - 4", -5.0),
        ("16 / 4 / 2", 2.0),
        ("--click + +1", 1.5),
        ('date("2020-03-01") - date("2020-02-01")', 29.0),
        ('"a" == "a" and not "a" == "b"', 1.0),
        ("clamp(5, 3, 1)", 1.0),
        ("min(click, 3, 0.25)", 0.25),
        ("if(click == 0.5, 0.1, 7)", 0.1),
        ("if(click in (0.5, 2), 3, 4)", 3.0),
    ],
)
def test_rules(text: str, score: float) -> None:
    predictions = torch.tensor([[[0.5, math.nan, math.inf]]])
    (found,) = ValueModel(text, SCOPE)(predictions, {}, {}).flatten().tolist()
    assert found == pytest.approx(score, rel=1e-5)


def test_missing_values() -> None:
    predictions = torch.zeros(1, 2, 3)
    fields = {
        "duration": Values(torch.tensor([[7, 0]]), torch.tensor([[True, False]])),
        "nsfw": Values(torch.tensor([[1, 0]]), torch.tensor([[True, False]])),
        "year": Values(torch.tensor([[2000, 2000]])),
        "genres": Values(torch.tensor([[[NO_TAG, hash_text("war")]] * 2]), torch.tensor([[True, False]])),
    }
    rules = {
        "duration == 7": [1, 0],
        "duration != 7": [0, 0],
        "not (duration == 7)": [0, 1],
        "duration < 100": [1, 0],
        "duration == 0": [0, 0],
        "duration in (0, 3)": [0, 0],
        "duration <= 0": [0, 0],
        "year > duration": [1, 0],
        'genres any ("war")': [1, 0],
        'not (genres all ("war"))': [0, 1],
        "duration not in (1, 2)": [1, 0],
        "duration is null": [0, 1],
        "duration is not null": [1, 0],
        "coalesce(duration, -1)": [7, -1],
        "coalesce(duration, 0) < 100": [1, 1],
        "nsfw": [1, 0],
        "not nsfw": [0, 1],
        "coalesce(nsfw, true)": [1, 1],
        "nsfw == (duration > 0)": [1, 0],
    }
    for text, scores in rules.items():
        assert ValueModel(text, SCOPE)(predictions, fields, {}).tolist() == [scores], text


def test_stored_numbers_are_compared_unrounded() -> None:
    values = torch.tensor([[2**53, 2**53 + 1]])
    fields = {"year": Values(values), "quality": Values(torch.tensor([[0.1, 0.1 + 1e-12]], dtype=torch.float64))}
    for text in ("year > 9007199254740992", "9007199254740993 <= year", "quality > 0.1", "year in (9007199254740993)"):
        assert ValueModel(text, SCOPE)(torch.zeros(1, 2, 3), fields, {}).tolist() == [[0, 1]], text


def test_inputs_are_not_written_to(case: Case) -> None:
    model = ValueModel("(click + 1) * 2 * nsfw + min(max(quality, 1), 2) * (nsfw and adult) - year", SCOPE)
    fields = gather_fields(case.columns, case.slots, model.fields)
    before = (
        case.predictions.clone(),
        {name: [part.clone() for part in value if part is not None] for name, value in fields.items()},
    )
    first = model(case.predictions, fields, case.inputs)
    assert torch.equal(first, model(case.predictions, fields, case.inputs))
    assert torch.equal(before[0].nan_to_num(), case.predictions.nan_to_num())
    for name, parts in before[1].items():
        assert all(torch.equal(a, b) for a, b in zip(parts, [p for p in fields[name] if p is not None], strict=True))


def test_a_score_does_not_depend_on_its_batch() -> None:
    case = make_case(requests=4, candidates=33, seed=1)
    model = ValueModel("exp(click) * log1p(max(quality, 0)) + pow(abs(user.taste), 1.3) / (1 + year)", SCOPE)
    fields = gather_fields(case.columns, case.slots, model.fields)
    whole = model(case.predictions, fields, case.inputs)
    for row in range(4):
        one = slice(row, row + 1)
        part = {name: Values(value.values[one, 5:6]) for name, value in fields.items()}
        inputs = {name: Values(case.inputs[name].values[one]) for name in model.inputs}
        alone = model(case.predictions[one, 5:6], part, inputs)
        torch.testing.assert_close(alone, whole[one, 5:6], rtol=1e-6, atol=0)


def test_equal_parts_are_computed_once_and_constants_never() -> None:
    def steps(text: str) -> int:
        return len(ValueModel(text, SCOPE)._program.steps)

    assert steps("click") == 1
    assert steps("1.0 * click + 0") == 1
    assert steps("click * (2 + 3 * exp(0))") == 2
    assert steps("(click + like) * (like + click)") == 4
    assert steps("log(quality) + log(quality)") == steps("log(quality)") + 1
    assert steps("if(1 > 2, like, click)") == 1
    assert steps("log(clamp(click, 0.1, 1)) / clamp(click, 0.1, 1)") == 5


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("text", ["click / 7", "(click + like) / 7", "7 / click", "click / (like + 9)"])
def test_numbers_divide_as_tensors_of_the_predictions_device(text: str, device: str) -> None:
    predictions = torch.rand(2, 3, len(SCOPE.tasks), generator=torch.Generator().manual_seed(0)).to(device)
    with OnDevice():
        ValueModel(text, SCOPE)(predictions, {}, {})
        evaluated(Valuation(None, {}), predictions, {})


def test_without_a_formula_a_value_is_the_mean() -> None:
    predictions = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(evaluated(Valuation(None, {}), predictions, {}), predictions.mean(dim=2))


@pytest.mark.parametrize("text", [EXAMPLE, "user.taste", "7", 'click * (genres any ("war"))', Formulas(3).number(4)])
def test_compiles_as_one_graph_and_exports(case: Case, text: str) -> None:
    model = ValueModel(text, SCOPE)
    fields = gather_fields(case.columns, case.slots, model.fields)
    inputs = {name: case.inputs[name] for name in model.inputs}
    found = model(case.predictions, fields, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.predictions, fields, inputs), found)
    exported = torch.export.export(model, (case.predictions, fields, inputs)).module()
    torch.testing.assert_close(exported(case.predictions, fields, inputs), found)


def test_exports_for_any_number_of_requests_and_candidates() -> None:
    model, case, other = ValueModel(EXAMPLE, SCOPE), make_case(), make_case(requests=5, candidates=9, seed=2)
    none: dict[str, Values] = {}
    arguments, others = (
        (one.predictions, gather_fields(one.columns, one.slots, model.fields), none) for one in (case, other)
    )
    shape = {0: torch.export.Dim("requests"), 1: torch.export.Dim("candidates")}
    fields = {name: Values(shape, None if value.present is None else shape) for name, value in arguments[1].items()}  # type: ignore[arg-type]
    exported = torch.export.export(model, arguments, dynamic_shapes=(shape, fields, {})).module()
    torch.testing.assert_close(exported(*others), model(*others))


def test_wrong_inputs_are_named() -> None:
    model, fields = ValueModel("click * year", SCOPE), {"year": Values(torch.zeros(1, 2, dtype=torch.int64))}
    cases = [
        (torch.zeros(1, 2, 2), fields, "predictions: expected [B, K, 3] float32, got [1, 2, 2] torch.float32"),
        (torch.zeros(1, 2, 3).double(), fields, "predictions: expected [B, K, 3] float32, got [1, 2, 3] torch.float64"),
        (torch.zeros(1, 2, 3), {}, "year: expected its values, there are none"),
        (torch.zeros(1, 4, 3), fields, "year: expected [1, 4] torch.int64, got [1, 2] torch.int64"),
    ]
    for predictions, given, message in cases:
        with pytest.raises(ValueError) as raised:
            model(predictions, given, {})
        assert str(raised.value) == message


def test_user_features_are_no_tags() -> None:
    field = SCHEMA.fields["words"]
    with pytest.raises(ValueError, match=r"user\.words: expected a type other than tags"):
        Scope((), SCHEMA, user={"words": field})
