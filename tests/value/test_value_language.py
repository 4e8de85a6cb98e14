"""What formulas mean as trees, text and JSON, and what is said of malformed ones: message, position, hint."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import pytest

from silverray.shard.api import FormulaError
from silverray.shard.filter.binder import Value
from silverray.shard.value.binder import bind
from silverray.shard.value.document import from_document, to_document
from silverray.shard.value.language import parse
from silverray.shard.value.model import ValueModel
from silverray.shard.value.syntax import Call, Name, Syntax, to_text

from .evaluator import SCOPE, Formulas

A, B, C = (Name(text, 0) for text in "abc")


def call(operator: str, *operands: Syntax) -> Call:
    return Call(operator, operands, 0)


def value(content: Any) -> Value:
    return Value(content, 0)


@pytest.mark.parametrize(
    "text, tree",
    [
        ("a + b + c", call("+", A, B, C)),
        ("a - b - c", call("-", A, B, C)),
        ("a + b - c", call("-", call("+", A, B), C)),
        ("a - (b - c)", call("-", A, call("-", B, C))),
        ("a + b * c", call("+", A, call("*", B, C))),
        ("(a + b) * c", call("*", call("+", A, B), C)),
        ("-a * b", call("*", call("-", A), B)),
        ("a - -5", call("-", A, value(-5))),
        ("-(5)", value(-5)),
        ("+a", A),
        ("a / b / c", call("/", A, B, C)),
        ("not a and b or c", call("or", call("and", call("not", A), B), C)),
        ("not a == b", call("not", call("==", A, B))),
        ("a = b", call("==", A, B)),
        ("a + 1 > b", call(">", call("+", A, value(1)), B)),
        ("a between 1 and 2 and b", call("and", call("between", A, value(1), value(2)), B)),
        ("a IN (-1, 2.5)", call("in", A, value(-1), value(2.5))),
        ("a not in ('x')", call("not in", A, value("x"))),
        ("a Is Not Null", call("is not null", A)),
        ("IF(a, b, c)", call("if", A, B, C)),
        ("item.a * user.b", call("*", Name("item.a", 0), Name("user.b", 0))),
        ("log", Name("log", 0)),
    ],
)
def test_trees(text: str, tree: Syntax) -> None:
    assert parse(text) == tree
    assert parse(to_text(tree)) == tree
    assert from_document(json.loads(json.dumps(to_document(tree)))) == tree


def test_the_json_form() -> None:
    document = {
        "+": [
            {"*": [1.0, "click"]},
            {"*": [4, "share", {"==": ["country", {"text": "US"}]}]},
            {"if": [{"<": ["released", {"date": "2001-05-01"}]}, -0.5, True]},
            {"-": [{"in": ["lang", {"text": "en"}, {"text": 'd"e\n'}]}]},
        ]
    }
    text = r'1.0 * click + 4 * share * (country == "US") + if(released < date("2001-05-01"), -0.5, true)'
    text += r' + -(lang in ("en", "d\"e\n"))'
    assert to_text(from_document(document)) == text
    assert json.dumps(to_document(parse(text))) == json.dumps(document)
    assert ValueModel(document, SCOPE).text == text
    assert ValueModel(text, SCOPE).document == document


@pytest.mark.parametrize("seed", range(5))
def test_round_trips(seed: int) -> None:
    formulas = Formulas(seed)
    for depth in (1, 2, 3, 4) * 20:
        tree = parse(formulas.number(depth))
        text, document = to_text(tree), to_document(tree)
        assert parse(text) == tree
        assert to_text(parse(text)) == text
        read = from_document(json.loads(json.dumps(document)))
        assert read == tree
        assert json.dumps(to_document(read)) == json.dumps(document)


ERRORS: list[tuple[str, int, str]] = [
    # What is there is no formula.
    ("", 0, "unexpected end of formula: expected a name, a literal, a function or ("),
    ("   ", 3, "unexpected end of formula"),
    ("()", 1, "unexpected `)`"),
    ("(click", 6, "unexpected end of formula"),
    ("click)", 5, "unexpected `)`"),
    ("click +", 7, "unexpected end of formula"),
    ("* click", 0, "unexpected `*`"),
    ("click * / like", 8, "unexpected `/`"),
    ("click like", 6, "unexpected `like`"),
    ("2 click", 2, "unexpected `click`"),
    ("click, like", 5, "unexpected `,`"),
    ("not", 3, "unexpected end of formula"),
    ("click * not adult", 8, "unexpected `not`"),
    ("click is 5", 9, "unexpected `5`"),
    ("null", 0, "unexpected `null`"),
    ("click == null", 9, "unexpected `null`"),
    # Characters and literals.
    ("click ** 2", 6, "unexpected '**'"),
    ("click ^ 2", 6, "unexpected '^'"),
    ("click % 2", 6, "unexpected '%'"),
    ("adult ? 1 : 2", 6, "unexpected '?'"),
    ("adult && nsfw", 6, "unexpected '&&'"),
    ("!adult", 0, "unexpected '!'"),
    ("click <> 2", 6, "unexpected '<>'"),
    (".5 * click", 0, "unexpected '.'"),
    ("5. * click", 1, "unexpected character '.' in a number"),
    ("2x", 1, "unexpected character 'x' in a number"),
    ("1e999 * click", 0, "the number is too large"),
    ("1e39 * click", 0, "1e+39 is beyond float32"),
    ("year == 9223372036854775808", 8, "the integer does not fit in 64 bits"),
    ('country == "US', 11, "the string is not closed"),
    ('released < date("2001-02-30")', 16, '"2001-02-30" is no date'),
    ("released < date(2001)", 16, "unexpected `2001`"),
    ("lang in ()", 9, "`in ()`: an empty list"),
    ("lang in 'en'", 8, "unexpected `'en'`"),
    ("lang in (lang)", 9, "unexpected `lang`"),
    ("year in (1, -)", 13, "unexpected `)`"),
    ("lang not 'en'", 9, "unexpected `'en'`"),
    # Functions.
    ("iff(adult, 1, 2)", 0, "unknown function iff"),
    ("if(adult, 1)", 11, "if: expected 3 operands, got 2"),
    ("min(click)", 9, "min: expected 2 or more operands, got 1"),
    ("log()", 4, "log: expected 1 operands, got 0"),
    ("pow(click, 2, 3)", 15, "pow: expected 2 operands, got 3"),
    ("log(click", 9, "unexpected end of formula"),
    ("log(click,)", 10, "unexpected `)`"),
    # Names.
    ("clik * 2", 0, "unknown name clik"),
    ("2 * Click", 4, "unknown name Click"),
    ("item.yaer", 0, "unknown name item.yaer"),
    ("hour + 1", 0, "unknown name hour"),
    ("request.hour", 0, "unknown name request.hour"),
    ("item.a.b", 0, "unknown name item.a.b"),
    ("title == 'x'", 0, "title is not kept on shards: its schema says `filter: false`"),
    # Types.
    ("country * 2", 0, "expected a number, got country, a text (category)"),
    ("click + 'a'", 8, 'expected a number, got "a", a text'),
    ("released + 1", 0, "expected a number, got released, a date (date)"),
    ("1 - added", 4, "expected a number, got added, a date (date)"),
    ("words * 2", 0, "expected a number, got words, tags (tags)"),
    ("country", 0, "expected a number, got country, a text (category)"),
    ("if(click, 1, 2)", 3, "expected a condition, got click, a number"),
    ("if(duration, 1, 2)", 3, "expected a condition, got duration, a number (int)"),
    ("click and adult", 0, "expected a condition, got click, a number"),
    ("not year", 4, "expected a condition, got year, a number (int)"),
    ("if(adult, 'a', 'b')", 10, 'expected a number, got "a", a text'),
    ("country == 5", 11, "country is category: expected a string, got an integer"),
    ("5 == country", 0, "country is category: expected a string, got an integer"),
    ("country < 'US'", 8, "country is category: `<` does not apply"),
    ("country < user.country", 8, "`<` does not apply to a text"),
    ("country == click", 8, "cannot compare country, a text (category), with click, a number"),
    ("click == 'a'", 6, 'cannot compare click, a number, with "a", a text'),
    ("click == true", 6, "cannot compare click, a number, with true, a condition"),
    ("(click > 1) > adult", 12, "`>` does not apply to a condition"),
    ("words == 'a'", 6, "words is tags: `=` does not apply"),
    ("words == genres", 6, "`==` does not apply to tags"),
    ("words in ('a')", 6, "words is tags: `in` does not apply"),
    ("country any ('a')", 8, "country is category: `any` does not apply"),
    ("click any ('a')", 6, "`any` applies to tags of items only, got click"),
    ("click in ('a')", 10, 'cannot compare click, a number, with "a", a text'),
    ("year == 5.5", 8, "year is int: 5.5 is not a whole number"),
    ("0 < click < 1", 10, "a comparison of a comparison"),
    ("genres any ('a') * click", 17, "`*` after a condition"),
    ("click is null", 6, "`is null` applies to fields, got click"),
    ("coalesce(duration, 'a')", 19, 'coalesce: expected a number, got "a", a text'),
    ("coalesce(genres, words)", 9, "coalesce: expected tags, got genres, tags (tags)"),
    # Missing values.
    ("duration * 2", 0, "duration may be missing"),
    ("log(price)", 4, "price may be missing"),
    ("if(price is null, 0, price)", 21, "price may be missing"),
    ("coalesce(price, user.age) + 1", 0, "coalesce(price, user.age) may be missing"),
    ("context.today - released", 16, "released may be missing"),
    # Limits.
    ("(" * 33 + "click" + ")" * 33, 32, "nested deeper than 32"),
    ("-" * 33 + "click", 32, "nested deeper than 32"),
    ("abs(" * 33 + "click" + ")" * 33, 4 * 32, "nested deeper than 32"),
    ("click" + " + 1 - 1" * 33, 10, "more than 64 operations within each other"),
    ("click" + " + 1" * 1024, 5 + 3, "more than 1,024 names, literals and operations"),
    ("year in (" + ",".join("1" * 1001) + ")", 9 + 2 * 1000, "more than 1,000 values in a list"),
    ("click" + " " * 16_384, 16_384, "the formula has 16,389 bytes, the limit is 16,384"),
]


@pytest.mark.parametrize("text, position, message", ERRORS, ids=range(len(ERRORS)))
def test_errors(text: str, position: int, message: str) -> None:
    with pytest.raises(FormulaError) as raised:
        ValueModel(text, SCOPE)
    assert (raised.value.position, raised.value.message[: len(message)]) == (position, message)


def test_there_are_enough_errors() -> None:
    assert len(ERRORS) >= 50


@pytest.mark.parametrize(
    "text, hint",
    [
        ("clik * 2", "did you mean click?"),
        ("2 * Click", "did you mean click?"),
        ("item.yaer", "did you mean year?"),
        ("hour + 1", "did you mean context.hour?"),
        ("age * 2", "did you mean user.age?"),
        ("iff(adult, 1, 2)", "did you mean if?"),
        ("click ** 2", "use pow(x, y)"),
        ("adult ? 1 : 2", "use if(condition, x, y)"),
        ("adult || nsfw", "use `or`"),
        ("0 < click < 1", "write `a < b and b < c`"),
        ("duration * 2", "write coalesce(duration, 0)"),
        ("context.today - released", 'write coalesce(released, date("2000-01-01"))'),
        ("if(click, 1, 2)", "write click != 0"),
        ("country * 2", "use `==` or `in` to make it a condition"),
        ("words == genres", "use `any` or `all` with a list"),
        ("click == null", "a word of the language cannot be a name"),
        ("click)", "this parenthesis was never opened"),
    ],
)
def test_hints(text: str, hint: str | None) -> None:
    with pytest.raises(FormulaError) as raised:
        ValueModel(text, SCOPE)
    assert raised.value.hint == hint


DOCUMENT_ERRORS: list[tuple[Any, str | None, str]] = [
    (None, None, "expected a finite number, true, false, a name, an object of one key; got None"),
    ([], None, "expected a finite number"),
    ({}, None, "expected a finite number"),
    ({"+": [1, 2], "-": [1]}, None, "expected a finite number"),
    (float("nan"), None, "expected a finite number"),
    (10**5000, None, "expected a finite number"),
    ("click + 1", None, "expected a finite number"),
    ({"plus": [1, 2]}, None, "unknown operator 'plus'"),
    ({"+": 1}, '["+"]', "expected a list of operands, got 1"),
    ({"+": [1]}, '["+"]', "+: expected 2 or more operands, got 1"),
    ({"+": [1, {"*": ["a", None]}]}, '["+"][1]["*"][1]', "expected a finite number"),
    ({"text": 5}, '["text"]', "expected a string, got 5"),
    ({"date": "2001"}, None, "'2001' is no date"),
]


@pytest.mark.parametrize("document, where, message", DOCUMENT_ERRORS, ids=range(len(DOCUMENT_ERRORS)))
def test_document_errors(document: Any, where: str | None, message: str) -> None:
    with pytest.raises(FormulaError) as raised:
        from_document(document)
    assert (raised.value.where, raised.value.message[: len(message)]) == (where, message)


def test_a_document_too_deep_is_refused() -> None:
    document: Any = "click"
    for _ in range(500):
        document = {"-": [document]}
    with pytest.raises(FormulaError, match="more than 64 operations"):
        from_document(document)


def test_errors_of_documents_have_positions_in_their_text() -> None:
    with pytest.raises(FormulaError) as raised:
        ValueModel({"+": ["click", {"*": [2, "clik"]}]}, SCOPE)
    assert raised.value.position == len("click + 2 * ")


def test_errors_read_well_and_pickle() -> None:
    with pytest.raises(FormulaError) as raised:
        ValueModel("2 * clik", SCOPE)
    error = raised.value
    assert str(error) == "unknown name clik (at character 4; did you mean click?)"
    copy: Any = pickle.loads(pickle.dumps(error))
    assert (copy.message, copy.position, copy.expected, copy.hint) == (
        error.message,
        error.position,
        error.expected,
        error.hint,
    )
    assert error.expected[:4] == ("click", "like", "share", "country")


def test_limits_are_inclusive() -> None:
    for text in (
        "(" * 32 + "click" + ")" * 32,
        "click" + " + 1 - 1" * 32,
        "click" + " + 1" * 1022,
        "-" * 32 + "click",
    ):
        assert bind(parse(text), SCOPE)


WORDS = "and or not in is null between any all true false click like year duration country genres nsfw user.age zzz"
SIGNS = "( ) ( ) , + - * / == != < >= = 5 5.5 1e400 'a' 'b if( min( coalesce( log( date( ; é . \\"
PIECES = f"{WORDS} {SIGNS}".split()


@pytest.mark.parametrize("seed", range(4))
def test_any_text_is_a_model_or_refused_at_a_position_within_it(seed: int) -> None:
    rng = random.Random(seed)
    made = 0
    for _ in range(1_500):
        text = rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(8)))
        try:
            ValueModel(text, SCOPE)
            made += 1
        except FormulaError as error:
            assert 0 <= error.position <= len(text)
            assert error.message
    assert made > 0
