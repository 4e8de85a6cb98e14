"""What the parser makes of good text, and what it says of bad text: message, position, expectation, hint."""

from __future__ import annotations

import math
import pickle
import random
from datetime import date
from typing import Any

import pytest

from silverray.shard.api import FilterError
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, Present, Range
from silverray.shard.filter.language import parse
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Schema

SCHEMA = Schema.parse(
    """
    id: item
    vector: {dimension: 4, metric: ip}
    fields:
      country: {type: category}
      lang: {type: category, nullable: true}
      tags: {type: tags, nullable: true}
      year: {type: int}
      count: {type: int, nullable: true}
      price: {type: float}
      date: {type: date}
      nsfw: {type: bool, nullable: true}
      title: {type: category, filter: false}
    """
)
MAY = date(2001, 5, 1).toordinal() - date(1970, 1, 1).toordinal()
US = OneOf("country", (hash_text("US"),))
NSFW = OneOf("nsfw", (1,))


def text_in(field: str, *texts: str) -> OneOf:
    return OneOf(field, tuple(sorted(map(hash_text, texts))))


@pytest.mark.parametrize(
    "text, expression",
    [
        ('country = "US"', US),
        ("country='US'", US),
        ("\tcountry\r\n=  'US' ", US),
        ('country != "US"', Not(US)),
        ('lang != "en"', And((Present("lang"), Not(text_in("lang", "en"))))),
        ('lang in ("en", "es", "en")', text_in("lang", "en", "es")),
        ('lang NOT IN ("en")', And((Present("lang"), Not(text_in("lang", "en"))))),
        ('country not in ("US")', Not(US)),
        ('tags any ("a", "b")', text_in("tags", "a", "b")),
        ('tags all ("a")', text_in("tags", "a")),
        ("nsfw", NSFW),
        ("not nsfw", Not(NSFW)),
        ("nsfw = True", NSFW),
        ("nsfw = false", OneOf("nsfw", (0,))),
        ("nsfw in (true, false)", OneOf("nsfw", (0, 1))),
        ("nsfw or nsfw and not nsfw", Or((NSFW, And((NSFW, Not(NSFW)))))),
        ("(nsfw Or nsfw) AND nsfw", And((Or((NSFW, NSFW)), NSFW))),
        ("not not nsfw", Not(Not(NSFW))),
        ("not nsfw and nsfw", And((Not(NSFW), NSFW))),
        ("not (nsfw and nsfw)", Not(And((NSFW, NSFW)))),
        ("nsfw is null", Not(Present("nsfw"))),
        ("nsfw IS NOT NULL", Present("nsfw")),
        ("year is null", Or(())),
        ("year is not null", And(())),
        ("year = 7", OneOf("year", (7,))),
        ("year = -007", OneOf("year", (-7,))),
        ("year = 7.0", OneOf("year", (7,))),
        ("year in (3, 1e1, 1)", OneOf("year", (1, 3, 10))),
        ("year < 7", Range("year", None, 6)),
        ("year < 7.5", Range("year", None, 7)),
        ("year < 7.0", Range("year", None, 6)),
        ("year <= 7.5", Range("year", None, 7)),
        ("year > 7", Range("year", 8, None)),
        ("year > 7.5", Range("year", 8, None)),
        ("year > -7.5", Range("year", -7, None)),
        ("year >= 7.5", Range("year", 8, None)),
        ("year between 5 and 20", Range("year", 5, 20)),
        ("year between 4.5 and 20.5", Range("year", 5, 20)),
        ("year between 20 and 5", OneOf("year", ())),
        ("year between 5.1 and 5.9", OneOf("year", ())),
        ("year > 9223372036854775807", OneOf("year", ())),
        ("year >= 9223372036854775807", Range("year", 2**63 - 1, None)),
        ("year < -9223372036854775808", OneOf("year", ())),
        ("year <= -9223372036854775808", Range("year", None, -(2**63))),
        ("year <= 9223372036854775807", Range("year", None, None)),
        ("year < 1e300", Range("year", None, None)),
        ("year > 1e300", OneOf("year", ())),
        ("year = -9223372036854775808", OneOf("year", (-(2**63),))),
        ("price = 5", OneOf("price", (5.0,))),
        ("price = -0.0", OneOf("price", (0.0,))),
        ("price in (2.5, -1E-3)", OneOf("price", (-0.001, 2.5))),
        ("price < 5", Range("price", None, math.nextafter(5.0, -math.inf))),
        ("price > 5", Range("price", math.nextafter(5.0, math.inf), None)),
        ("price >= 5", Range("price", 5.0, None)),
        ("price between 5 and 20", Range("price", 5.0, 20.0)),
        ('date < date("2001-05-01")', Range("date", None, MAY - 1)),
        ('date >= DATE ( "2001-05-01" )', Range("date", MAY, None)),
        ('date = date("1969-12-31")', OneOf("date", (-1,))),
        (r'country = "a\"\u0062\n\/\\\ud83c\udfb7' "'" '"', text_in("country", "a\"b\n/\\\U0001f3b7'")),
        (r"country = 'it\'s \"'", text_in("country", "it's \"")),
        ("country = '日本'", text_in("country", "日本")),
        ("country = ''", text_in("country", "")),
    ],
)
def test_expressions(text: str, expression: Expression) -> None:
    assert parse(text, SCHEMA) == expression


def test_zero_is_positive_zero() -> None:
    leaf = parse("price in (-0.0)", SCHEMA)
    assert isinstance(leaf, OneOf)
    assert math.copysign(1, leaf.values[0]) == 1
    bound = parse("price >= -0.0", SCHEMA)
    assert isinstance(bound, Range)
    assert bound.low is not None
    assert math.copysign(1, bound.low) == 1


DEEP = "not " * 65 + "nsfw"
ERRORS: list[tuple[str, int, str]] = [
    # What is there is no expression.
    ("", 0, "unexpected end of filter"),
    ("   ", 3, "unexpected end of filter"),
    ("()", 1, "unexpected `)`"),
    ("(nsfw", 5, "unexpected end of filter"),
    ("nsfw)", 4, "unexpected `)`"),
    ("nsfw and", 8, "unexpected end of filter"),
    ("and nsfw", 0, "unexpected `and`"),
    ("nsfw or or nsfw", 8, "unexpected `or`"),
    ("nsfw nsfw", 5, "unexpected `nsfw`"),
    ("not", 3, "unexpected end of filter"),
    ("nsfw 5", 5, "unexpected `5`"),
    ('"US" = country', 0, 'unexpected `"US"`'),
    ("5 < year", 0, "unexpected `5`"),
    ("true", 0, "unexpected `true`"),
    ("year = 5 year = 6", 9, "unexpected `year`"),
    # Operators.
    ("year", 0, "year is int: only a bool field can stand alone"),
    ("not year", 4, "year is int: only a bool field can stand alone"),
    ("tags and nsfw", 0, "tags is tags: only a bool field can stand alone"),
    ("year 5", 5, "unexpected `5`"),
    ("year =", 6, "unexpected end of filter"),
    ("year == 5", 5, "unexpected '=='"),
    ("year <> 5", 5, "unexpected '<>'"),
    ("year => 5", 6, "unexpected `>`"),
    ("year ! 5", 5, "unexpected '!'"),
    ("nsfw && nsfw", 5, "unexpected '&&'"),
    ("nsfw || nsfw", 5, "unexpected '||'"),
    ("year not 5", 9, "unexpected `5`"),
    ("year not between 1 and 2", 9, "unexpected `between`"),
    ("lang < 'en'", 5, "lang is category: `<` does not apply"),
    ("lang between 'a' and 'b'", 5, "lang is category: `between` does not apply"),
    ("tags = 'a'", 5, "tags is tags: `=` does not apply"),
    ("tags in ('a')", 5, "tags is tags: `in` does not apply"),
    ("tags not in ('a')", 5, "tags is tags: `not in` does not apply"),
    ("lang any ('a')", 5, "lang is category: `any` does not apply"),
    ("year all (1)", 5, "year is int: `all` does not apply"),
    ("nsfw >= true", 5, "nsfw is bool: `>=` does not apply"),
    ("year is 5", 8, "unexpected `5`"),
    ("year is not", 11, "unexpected end of filter"),
    ("year between 5", 14, "unexpected end of filter"),
    ("year between 5 or 6", 15, "unexpected `or`"),
    ("year between (5, 6)", 13, "unexpected `(`"),
    # Lists.
    ("year in 5", 8, "unexpected `5`"),
    ("year in ()", 9, "`in ()`: an empty list"),
    ("year not in ()", 13, "`not in ()`: an empty list"),
    ("tags any ()", 10, "`any ()`: an empty list"),
    ("tags all ( )", 11, "`all ()`: an empty list"),
    ("year in (5", 10, "unexpected end of filter"),
    ("year in (5,)", 11, "unexpected `)`"),
    ("year in (5 6)", 11, "unexpected `6`"),
    ("year in [5]", 8, "unexpected '['"),
    # Fields.
    ("yaer = 5", 0, "unknown field yaer"),
    ("nsfw and Year = 5", 9, "unknown field Year"),
    ("title = 'x'", 0, "title cannot be used in filters: its schema says `filter: false`"),
    ("item = 5", 0, "unknown field item"),
    ("null = 5", 0, "unexpected `null`"),
    # Values.
    ("year = null", 7, "unexpected `null`"),
    ("year = count", 7, "unexpected `count`"),
    ("year = 'x'", 7, "year is int: expected an integer, got a string"),
    ("year = true", 7, "year is int: expected an integer, got true or false"),
    ("year = 5.5", 7, "year is int: 5.5 is not a whole number"),
    ("year in (1, 2.5)", 12, "year is int: 2.5 is not a whole number"),
    ("year = 1e19", 7, "year is int: 1e+19 does not fit in 64 bits"),
    ("year = 9223372036854775808", 7, "the integer does not fit in 64 bits"),
    ("year > -9223372036854775809", 7, "the integer does not fit in 64 bits"),
    ("year = " + "9" * 5_000, 7, "the integer does not fit in 64 bits"),
    ("price = 18446744073709551616", 8, "the integer does not fit in 64 bits"),
    ("price = 1e999", 8, "the number is too large"),
    ("price = nan", 8, "unexpected `nan`"),
    ("price = .5", 8, "unexpected '.'"),
    ("price = +5", 8, "unexpected '+'"),
    ("price = 5.", 9, "unexpected character '.' in a number"),
    ("price = 5kg", 9, "unexpected character 'k' in a number"),
    ("price = 1_000", 9, "unexpected character '_' in a number"),
    ("price = 'x'", 8, "price is float: expected a number, got a string"),
    ("price = false", 8, "price is float: expected a number, got true or false"),
    ("nsfw = 1", 7, "nsfw is bool: expected true or false, got an integer"),
    ("country = US", 10, "unexpected `US`"),
    ("country = 5", 10, "country is category: expected a string, got an integer"),
    ("tags any (5)", 10, "tags is tags: expected a string, got an integer"),
    ('year = date("2001-05-01")', 7, "year is int: expected an integer, got a date"),
    ('date = "2001-05-01"', 7, 'date is date: expected date("YYYY-MM-DD"), got a string'),
    ("date = 11443", 7, 'date is date: expected date("YYYY-MM-DD"), got an integer'),
    ('date = date("2001-02-30")', 12, '"2001-02-30" is no date: day'),
    ('date = date("2001-5-1")', 12, '"2001-5-1" is no date'),
    ('date = date("20010501")', 12, '"20010501" is no date'),
    ('date = date("0000-01-01")', 12, '"0000-01-01" is no date: year'),
    ("date = date(2001)", 12, "unexpected `2001`"),
    ('date = date("2001-05-01"', 24, "unexpected end of filter"),
    # Strings and characters.
    ("country = 'US", 10, "the string is not closed"),
    ("country = \"US'", 10, "the string is not closed"),
    ("country = '\\", 11, "unknown escape in a string"),
    ("country = 'a\\x41'", 12, "unknown escape in a string"),
    ("country = 'a\\u12'", 12, "unknown escape in a string"),
    ("country = 'a\\ud83c'", 12, "half of a surrogate pair is no character"),
    ("country = 'a\\ud83cx\\udfb7'", 12, "half of a surrogate pair is no character"),
    ("country = 'a\\udfb7\\ud83c'", 12, "half of a surrogate pair is no character"),
    ("country = 'a\ud83c'", 12, "half of a surrogate pair is no character"),
    ("country = 'a\nb'", 12, "control character '\\n' in a string"),
    ("country = \u201cUS\u201d", 10, "unexpected '\u201c'"),
    ("year\xa0= 5", 4, "unexpected '\\xa0'"),
    ("year = 5; nsfw", 8, "unexpected ';'"),
    ("year = 5 \x00", 9, "unexpected '\\x00'"),
    ("größe = 5", 2, "unexpected 'ö'"),
    # Limits.
    (DEEP, 64 * 4, "nested deeper than 64"),
    ("(" * 65 + "nsfw" + ")" * 65, 64, "nested deeper than 64"),
    ("not (" * 40 + "nsfw" + ")" * 40, 32 * 5, "nested deeper than 64"),
    ("year in (" + ",".join("1" * 1001) + ")", 9 + 2 * 1000, "more than 1,000 values in a list"),
    ("nsfw" + " " * 16_384, 16_384, "the filter has 16,388 bytes, the limit is 16,384"),
    ("country = '" + "é" * 8_192 + "'", 11 + 8_186, "the filter has 16,396 bytes"),
]


@pytest.mark.parametrize("text, position, message", ERRORS, ids=range(len(ERRORS)))
def test_errors(text: str, position: int, message: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse(text, SCHEMA)
    assert (raised.value.position, raised.value.message[: len(message)]) == (position, message)
    assert raised.value.where == "filter"


def test_there_are_enough_errors() -> None:
    assert len(ERRORS) >= 60


def error(text: str) -> FilterError:
    with pytest.raises(FilterError) as raised:
        parse(text, SCHEMA)
    return raised.value


@pytest.mark.parametrize(
    "text, expected",
    [
        ("nsfw nsfw", ("and", "or")),
        ("(nsfw", (")", "and", "or")),
        ("year 5", ("=", "!=", "in", "not in", "<", "<=", ">", ">=", "between", "is null", "is not null")),
        ("tags 5", ("any", "all", "is null", "is not null")),
        ("nsfw)", ("and", "or", "end of filter")),
        ("", ("a field", "not", "(")),
        ("year = ", ("a string", "a number", "true", "false", 'date("YYYY-MM-DD")')),
        ("year in (5", (")", ",")),
        ("year in 5", ("(",)),
        ("year is 5", ("null", "not null")),
        ("year is not 5", ("null",)),
        ("year not 5", ("in",)),
        ("year between 5", ("and",)),
        ("tags = 'a'", ("any", "all", "is null", "is not null")),
        ("nsfw = 5", ("true or false",)),
        ("country = 'a", ("'",)),
    ],
)
def test_expected(text: str, expected: tuple[str, ...]) -> None:
    found = error(text).expected
    assert found == expected or set(expected) <= set(found)


@pytest.mark.parametrize(
    "text, hint",
    [
        ("yaer = 5", "did you mean year?"),
        ("Year = 5", "did you mean year?"),
        ("contry = 'US'", "did you mean country?"),
        ("zzz = 5", None),
        ("tags = 'a'", "use `any` or `all`"),
        ("tags in ('a')", "use `any` or `all`"),
        ("lang any ('a')", "use `in`"),
        ("lang < 'a'", "use `=` or `!=`"),
        ("year == 5", "use `=`"),
        ("year <> 5", "use `!=`"),
        ("nsfw && nsfw", "use `and`"),
        ("year = null", "use `is null` or `is not null`"),
        ("country = US", 'write "US" for the text US'),
        ("country = 5", "write the value in quotes"),
        ("year = '5'", "write the value without quotes"),
        ('date < "2001-05-01"', 'write date("YYYY-MM-DD")'),
        ("year not between 1 and 2", "write `not` before the field"),
        ("nsfw)", "this parenthesis was never opened"),
        ("between = 5", "a word of the language cannot name a field"),
        ("item = 5", "publish a copy of it as a field of another name, and filter by that"),
        ("price = NaN", "no stored value is NaN"),
        ("count < nan", "NaN is no value: write `count is null`"),
        ("price < inf", "infinity has no literal: compare with a large number, such as 1e308"),
        ("price < -inf", "write a digit after the -; a filter does not calculate"),
        ("date > now()", 'dates are literals: write date("2001-05-01")'),
        ("date between today and tomorrow", 'dates are literals: write date("2001-05-01")'),
        ("date > 2001-05-01", 'write date("YYYY-MM-DD")'),
        ("year = 'x'", "write a number"),
        ("year = true", "write a number"),
        ("year = '2001-05-01'", "write a number"),
        ("year = price", "write a number"),
        ("nsfw = 1", "write true or false"),
        ("nsfw = yes", "write true or false"),
        ("nsfw = 'true'", "write the value without quotes"),
        ("nsfw is true", "only null stands after `is`: use `=`"),
        ("country is not 'US'", "only null stands after `is`: use `!=`"),
        ("country is not", None),
        ("country = None", "use `is null` or `is not null`"),
        ("country in (null)", "use `is null` or `is not null`"),
        ("country like 'U%'", "texts are compared whole: use `=` or `in`"),
        ("country ~ 'U'", "texts are compared whole: use `=` or `in`"),
        ("tags contains 'x'", "use `any` or `all`"),
        ("tags any 'x'", "write lists in ( )"),
        ("tags any ['x']", "write lists in ( )"),
        ("!nsfw", "use `not` or `!=`"),
        ("nsfw || nsfw", "use `or`"),
        ("year => 5", "use `>=`"),
        ("year =< 5", "use `<=`"),
        ("year ≥ 5", "use `>=`"),
        ("year: 5", "use `=`"),
        ("year + 1 > 5", "write numbers without +"),
        ("year * 2 > 5", "a filter does not calculate"),
        ("5 < year", "write the field first, such as `year > 1990`"),
        ("'year' = 5", "names of fields stand without quotes, before the operator"),
        ("country = \u2018US\u2019", "use straight quotes, \" or '"),
    ],
)
def test_hints(text: str, hint: str | None) -> None:
    assert error(text).hint == hint


def test_unknown_field_lists_the_fields() -> None:
    assert error("zzz = 5").expected == ("country", "lang", "tags", "year", "count", "price", "date", "nsfw")


def test_errors_pickle() -> None:
    found = error("yaer = 5")
    copy: Any = pickle.loads(pickle.dumps(found))
    assert (copy.message, copy.position, copy.expected, copy.hint, copy.where) == (
        found.message,
        found.position,
        found.expected,
        found.hint,
        found.where,
    )


def test_limits_are_inclusive() -> None:
    assert parse("not " * 64 + "nsfw", SCHEMA)
    assert parse("(" * 64 + "nsfw" + ")" * 64, SCHEMA) == NSFW
    assert parse("(nsfw) or " * 500 + "nsfw", SCHEMA)
    assert parse("year in (" + ",".join(map(str, range(1000))) + ")", SCHEMA) == OneOf("year", tuple(range(1000)))
    assert parse("nsfw" + " " * 16_380, SCHEMA) == NSFW


WORDS = "and or not in is null between any all true false date"
NAMES = "country lang tags year count price date nsfw title zzz"
SIGNS = "( ) , = != < <= > >= == 5 -5 5.5 1e400 'a' 'b' 'c \\ \\u12 ; é"
PIECES = [
    *f"{WORDS} {NAMES} {SIGNS}".split(),
    'date("2001-05-01")',
    'date("2001-13-01")',
]


@pytest.mark.parametrize("seed", range(4))
def test_any_text_is_parsed_or_refused_at_a_position_within_it(seed: int) -> None:
    rng = random.Random(seed)
    parsed = 0
    for _ in range(2_000):
        text = rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(9)))
        try:
            parse(text, SCHEMA)
            parsed += 1
        except FilterError as found:
            assert 0 <= found.position <= len(text)
            assert found.message
    assert parsed > 0


def test_an_error_as_text_has_position_and_hint() -> None:
    """What the command line prints."""
    assert str(error("yaer >= 2001")) == "filter: unknown field yaer (at character 0; did you mean year?)"
