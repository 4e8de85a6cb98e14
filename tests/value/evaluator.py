"""A plain evaluator of formulas, one item at a time; and seeded formulas and items to try it on."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from silverray.shard.filter.binder import Value
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.schema import Field, Schema
from silverray.shard.value.inputs import Values, gather_fields, read_requests
from silverray.shard.value.model import ValueModel
from silverray.shard.value.scope import Scope
from silverray.shard.value.syntax import COMPARISONS, Call, Name, Syntax

LARGEST = float(np.finfo(np.float32).max)
TASKS = ("click", "like", "share")
SCHEMA = Schema.parse(
    """
    id: item
    vector: {dimension: 4, metric: ip}
    fields:
      country: {type: category}
      lang: {type: category, nullable: true}
      genres: {type: tags, nullable: true}
      words: {type: tags}
      year: {type: int}
      duration: {type: int, nullable: true}
      quality: {type: float}
      price: {type: float, nullable: true}
      added: {type: date}
      released: {type: date, nullable: true}
      adult: {type: bool}
      nsfw: {type: bool, nullable: true}
      title: {type: category, filter: false}
    """
)
SCOPE = Scope(
    TASKS,
    SCHEMA,
    user={"age": Field(type="int", nullable=True), "country": Field(type="category"), "taste": Field(type="float")},
    context={
        "hour": Field(type="int"),
        "today": Field(type="date"),
        "lang": Field(type="category", nullable=True),
        "mobile": Field(type="bool"),
    },
)
ITEMS = 40
Row = Mapping[str, Any]
Number = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """Candidates `[B, K]` of some requests, as a model takes them and as mappings of name to value."""

    predictions: torch.Tensor
    columns: Columns
    slots: torch.Tensor
    inputs: dict[str, Values]
    rows: list[list[Row]]

    def score(self, model: ValueModel) -> torch.Tensor:
        assert set(model.inputs) <= set(self.inputs)
        scores: torch.Tensor = model(
            self.predictions, gather_fields(self.columns, self.slots, model.fields), self.inputs
        )
        return scores


def make_case(requests: int = 2, candidates: int = 12, seed: int = 0) -> Case:
    rng = random.Random(seed)
    items = [_make_item(rng) for _ in range(ITEMS)]
    types = {"genres": pa.list_(pa.string()), "words": pa.list_(pa.string()), "price": pa.float64()}
    table = pa.table(
        {name: pa.array([item[name] for item in items], types.get(name)) for name in items[0]}
        | {"title": ["x"] * ITEMS}
    )
    slots = [[rng.randrange(ITEMS) for _ in range(candidates)] for _ in range(requests)]
    predictions = [[[_make_prediction(rng) for _ in TASKS] for _ in range(candidates)] for _ in range(requests)]
    said = [_make_request(rng) for _ in range(requests)]
    users = [{name[5:]: value for name, value in one.items() if name.startswith("user.")} for one in said]
    contexts = [{name[8:]: value for name, value in one.items() if name.startswith("context.")} for one in said]
    rows: list[list[Row]] = [
        [
            {**items[slot], **dict(zip(TASKS, scores, strict=True)), **asked}
            for slot, scores in zip(chosen, predicted, strict=True)
        ]
        for chosen, predicted, asked in zip(slots, predictions, said, strict=True)
    ]
    json_contexts = [{**context, "today": context["today"].isoformat()} for context in contexts]
    names = SCOPE.names
    return Case(
        torch.tensor(predictions),
        read_columns(table, SCHEMA),
        torch.tensor(slots),
        read_requests(SCOPE.user, users, "user", names) | read_requests(SCOPE.context, json_contexts, "context", names),
        rows,
    )


def _make_item(rng: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.25 else value

    day = datetime.date(2020, 1, 1)
    return {
        "country": rng.choice(["US", "DE", "JP"]),
        "lang": maybe(rng.choice(["en", "de"])),
        "genres": maybe(rng.sample(["war", "noir", "jazz", "live"], rng.randrange(4))),
        "words": [f"w{rng.randrange(30)}" for _ in range(rng.randrange(5))],
        "year": rng.choice([2**53 + 1, rng.randrange(1990, 2010)]),
        "duration": maybe(rng.randrange(-50, 1200)),
        "quality": rng.choice([0.0, -0.0, rng.uniform(-2, 2)]),
        "price": maybe(rng.choice([math.inf, -math.inf, 1e300, math.nan, rng.uniform(0, 100)])),
        "added": day + datetime.timedelta(days=rng.randrange(500)),
        "released": maybe(day + datetime.timedelta(days=rng.randrange(500))),
        "adult": rng.random() < 0.5,
        "nsfw": maybe(rng.random() < 0.5),
    }


def _make_prediction(rng: random.Random) -> float:
    value = rng.choice([0.0, 1.0, -1e20, math.nan, math.inf, *[rng.uniform(-1, 2) for _ in range(15)]])
    return float(np.float32(value))


def _make_request(rng: random.Random) -> dict[str, Any]:
    return {
        "user.age": rng.choice([None, rng.randrange(10, 90)]),
        "user.country": rng.choice(["US", "DE", "FR"]),
        "user.taste": rng.uniform(-3, 3),
        "context.hour": rng.randrange(24),
        "context.today": datetime.date(2020, 1, 1) + datetime.timedelta(days=rng.randrange(800)),
        "context.lang": rng.choice([None, "en", "fr"]),
        "context.mobile": rng.random() < 0.5,
    }


def evaluate(tree: Syntax, row: Row, number: Number) -> Any:
    """The value of a formula for one item; `number` rounds what is computed, such as `np.float32`."""
    return _Evaluator(row, number).number(tree)


class _Evaluator:
    def __init__(self, row: Row, number: Number) -> None:
        self.row = row
        self.round = number

    def number(self, tree: Syntax) -> Any:
        value = self.value(tree)
        assert not isinstance(value, str | datetime.date), tree
        return self._limited(False if value is None else value)  # a bool field without a value is false

    def value(self, tree: Syntax) -> Any:
        match tree:
            case Value(value):
                return value
            case Name(text):
                value = self.row[text.removeprefix("item.")]
                if isinstance(value, float) and math.isnan(value):
                    return 0.0 if text in TASKS else None
                return value
            case Call(operator, operands):
                return self._call(operator, operands)

    def _limited(self, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, np.floating):
            value = min(max(float(value), -LARGEST), LARGEST)
        return min(max(self.round(value), self.round(-LARGEST)), self.round(LARGEST))

    def _input(self, tree: Syntax) -> Any:
        """An operand as a number; inputs are limited."""
        value = self.number(tree)
        if isinstance(tree, Name):
            limit = 1e9 if tree.text in TASKS else 2.0**63
            return min(max(value, self.round(-limit)), self.round(limit))
        return value

    def _call(self, operator: str, operands: tuple[Syntax, ...]) -> Any:
        if operator in COMPARISONS:
            return self._compare(operator, *operands)
        match operator:
            case "and":
                return all(self._truth(operand) for operand in operands)
            case "or":
                return any(self._truth(operand) for operand in operands)
            case "not":
                return not self._truth(operands[0])
            case "between":
                return self._compare(">=", *operands[:2]) and self._compare("<=", operands[0], operands[2])
            case "is null":
                return self.value(operands[0]) is None
            case "is not null":
                return self.value(operands[0]) is not None
            case "in":
                return any(self._compare("==", operands[0], value) for value in operands[1:])
            case "not in":
                return all(self._compare("!=", operands[0], value) for value in operands[1:])
            case "any" | "all":
                tags = self.value(operands[0])
                found = [self.value(value) in tags for value in operands[1:]] if tags is not None else [False]
                return any(found) if operator == "any" else all(found)
            case "if":
                chosen = operands[1] if self._truth(operands[0]) else operands[2]
                value = self.value(chosen)
                return value if isinstance(value, bool) else self._input(chosen)
            case "coalesce":
                values = [self.value(operand) for operand in operands]
                place = next((place for place, value in enumerate(values) if value is not None), None)
                if place is None or isinstance(values[place], str | bool | datetime.date):
                    return None if place is None else values[place]
                return self._input(operands[place])
        if operator == "-" and len(operands) == 2:
            days = [self.value(operand) for operand in operands]
            if isinstance(days[0], datetime.date):
                return self._limited((days[0] - days[1]).days)
        return self._arithmetic(operator, [self._input(operand) for operand in operands])

    def _truth(self, tree: Syntax) -> bool:
        value = self.value(tree)
        assert value is None or isinstance(value, bool | np.bool_)
        return bool(value)

    def _compare(self, operator: str, left: Syntax, right: Syntax) -> bool:
        fields = [isinstance(tree, Name) and tree.text not in TASKS for tree in (left, right)]
        literals = [isinstance(tree, Value) for tree in (left, right)]
        a, b = self.value(left), self.value(right)
        if a is None or b is None:
            return False
        stored = any(fields) and all(a or b for a, b in zip(fields, literals, strict=True))
        if not stored and not isinstance(a, str | bool | datetime.date):
            a, b = self._input(left), self._input(right)
        tests = {
            "==": lambda: a == b,
            "!=": lambda: a != b,
            "<": lambda: a < b,
            "<=": lambda: a <= b,
            ">": lambda: a > b,
            ">=": lambda: a >= b,
        }
        return bool(tests[operator]())

    def _arithmetic(self, operator: str, values: list[Any]) -> Any:
        x, *others = values
        match operator:
            case "-" if not others:
                return -x
            case "abs":
                return abs(x)
            case "log":
                return self._function(math.log, max(x, 1e-30))
            case "log1p":
                return self._function(math.log1p, max(x, 2**-20 - 1))
            case "exp":
                return self._function(lambda x: math.exp(min(x, 700)), x)
            case "sqrt":
                return self._function(math.sqrt, max(x, 0.0))
            case "pow":
                return self._function(lambda x: _power(x, float(others[0])), x)
            case "clamp":
                return min(max(x, others[0]), others[1])
        for y in others:
            x = self._limited(self._joined(operator, x, y))
        return x

    def _function(self, function: Callable[[float], float], x: Any) -> Any:
        return self._limited(function(float(x)))

    def _joined(self, operator: str, x: Any, y: Any) -> Any:
        match operator:
            case "+":
                return x + y
            case "-":
                return x - y
            case "*":
                return x * y
            case "/":
                return x * 0 if y == 0 else x / y
            case "min":
                return min(x, y)
        return max(x, y)


def _power(x: float, y: float) -> float:
    if (x == 0 and y < 0) or (x < 0 and not y.is_integer()):
        return 0.0
    try:
        return float(x**y)
    except OverflowError:
        return -LARGEST if x < 0 and y % 2 == 1 else LARGEST


class Formulas:
    """Random formulas, as text with more parentheses than needed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def number(self, depth: int) -> str:
        rng = self._rng
        if depth == 0:
            return rng.choice([*TASKS, "year", "quality", "item.quality", "user.taste", "context.hour", *LITERALS])

        def x() -> str:
            return self.number(depth - 1)

        def y() -> str:
            return self.number(rng.randrange(depth))

        forms: list[Callable[[], str]] = [
            lambda: f"({x()} {rng.choice('+-*/')} {y()})",
            lambda: f"({x()} {rng.choice('+-*/')} {y()} {rng.choice('+-*/')} {y()})",
            lambda: f"(-{x()})",
            lambda: f"({x()} * {self.condition(depth - 1)})",
            lambda: f"if({self.condition(depth - 1)}, {x()}, {y()})",
            lambda: f"{rng.choice(['min', 'max'])}({x()}, {y()}, {y()})",
            lambda: f"clamp({x()}, {y()}, {y()})",
            lambda: f"{rng.choice(['abs', 'log', 'log1p', 'exp', 'sqrt'])}({x()})",
            lambda: f"pow({x()}, {rng.choice(['2', '0.5', '-1', '3', y()])})",
            lambda: f"coalesce({rng.choice(['duration', 'price', 'user.age'])}, {x()})",
            lambda: f"((context.today - coalesce(released, added)) / {y()})",
        ]
        return rng.choice(forms)()

    def condition(self, depth: int) -> str:
        rng = self._rng
        if depth > 0 and rng.random() < 0.5:
            x, y = self.condition(depth - 1), self.condition(rng.randrange(depth))
            return rng.choice([f"({x} and {y})", f"({x} or {y})", f"(not {x})", f"({x} == {y})"])
        comparison = rng.choice(COMPARISONS)
        number = self.number(rng.randrange(depth + 1))
        return rng.choice(
            [
                f"({number} {comparison} {self.number(0)})",
                f"(duration {comparison} {rng.randrange(1000)})",
                f"({rng.choice(['200', '-3'])} {comparison} duration)",
                f"(price {comparison} {rng.choice(['50', '1e30'])})",
                f"(year {comparison} 9007199254740993)",
                f"(user.age {comparison} duration)",
                f"(duration between 100 and {rng.randrange(900)})",
                f"({number} between 0 and 1)",
                "(country == user.country)",
                'lang != "en"',
                "(lang = context.lang)",
                '(country in ("US", "JP"))',
                '(lang not in ("en", "fr"))',
                '(coalesce(lang, user.country) in ("en", "US"))',
                '(genres any ("war", "jazz"))',
                '(genres all ("war", "noir"))',
                f"(words any ({', '.join(repr(f'w{word}') for word in range(12))}))",
                f"(year in ({', '.join(str(1990 + 2 * step) for step in range(10))}))",
                f"(released {comparison} added)",
                f'(released {comparison} date("2020-07-01"))',
                f"({rng.choice(['duration', 'lang', 'genres', 'user.age'])} is {rng.choice(['', 'not '])}null)",
                "adult",
                "nsfw",
                "(nsfw != true)",
                "coalesce(nsfw, context.mobile)",
            ]
        ).replace('lang != "en"', '(lang != "en")')


LITERALS = ("0", "1", "2.5", "-3", "1e-3", "1e20", "100", "0.1")
