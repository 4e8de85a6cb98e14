"""Programs stay within their limits, and right, on filters made to break them."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from silverray.kernels.bits import transpose_bits
from silverray.kernels.programs import MAX_INSTRUCTIONS, MAX_STACK, PLANE_BITS, Opcode, evaluate_programs
from silverray.shard.api import FilterError
from silverray.shard.filter.compiler import CompiledFilter, compile_filter
from silverray.shard.filter.expression import And, Not, OneOf, Or, PlaneTest, Present, Range
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.filter.verification import matches
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.schema import Schema

PUSHES = {Opcode.LOAD: 1, Opcode.STACK_AND: -1, Opcode.STACK_OR: -1}


def stack_depth(program: Any) -> int:
    depths = list(itertools.accumulate(PUSHES.get(Opcode(code >> PLANE_BITS), 0) for code in program.tolist()))
    assert min(depths) == 1
    assert depths[-1] == 1
    return max(depths)


def check_right(catalog: Any, compiled: CompiledFilter) -> None:
    """The program is within its limits, and both modes keep their promise against stored values."""
    assert compiled.exact.program.dtype == np.int32
    assert len(compiled.exact.program) <= MAX_INSTRUCTIONS
    assert stack_depth(compiled.exact.program) <= MAX_STACK
    truth = stored(catalog, compiled.expression) & catalog.live
    assert np.array_equal(catalog.shown(compiled.exact), truth)
    assert not (truth & ~catalog.shown(compiled.bloom)).any()


def stored(catalog: Any, expression: Any) -> Any:
    """Evaluate an expression row by row on the values that the catalog was made of."""
    columns = {name: column.to_tensors() for name, column in catalog.columns.fields.items()}
    rows = range(len(catalog.rows))

    def values(field: str) -> list[set[Any]]:
        tensors = {name: tensor.tolist() for name, tensor in columns[field].items()}
        present = tensors.get("present", [True] * len(catalog.rows))
        if "offsets" in tensors:
            ends = tensors["offsets"]
            return [set(tensors["values"][ends[row] : ends[row + 1]]) for row in rows]
        return [{tensors["values"][row]} if present[row] else set() for row in rows]

    match expression:
        case Present(field):
            present = columns[field].get("present")
            return np.ones(len(catalog.rows), dtype=bool) if present is None else present.numpy()
        case OneOf(field, wanted):
            return np.array([not set(wanted).isdisjoint(held) for held in values(field)])
        case Range(field, low, high):
            return np.array(
                [all(_inside(value, low, high) for value in held) and held != set() for held in values(field)]
            )
        case Not(operand):
            return ~stored(catalog, operand)
        case And(operands):
            return np.logical_and.reduce([stored(catalog, operand) for operand in operands])
        case Or(operands):
            return np.logical_or.reduce([stored(catalog, operand) for operand in operands])
    raise AssertionError(expression)


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def some_leaves(rng: random.Random, count: int) -> list[str]:
    """Distinct short terms that planes decide or not."""
    makers = (f"maker='maker {number}'" for number in rng.sample(range(700), count))
    years = (f"year{rng.choice('<>=')}{rng.randrange(1971, 2020)}" for _ in range(count))
    words = (f"words any('w{number}')" for number in rng.sample(range(900), count))
    return [rng.choice(trio) for trio in zip(makers, years, words, strict=True)]


LISTS = {
    "color": [f'"c{number}"' for number in range(992)]
    + ["'red'", "'green'", "''", '"it\'s"', "'x'", "'y'", "'z'", "'new 3'"],
    "maker": [f"'maker {number}'" for number in range(1_000)],
    "owner": [f"'owner {number}'" for number in range(1_000)],
    "genres": ["'war'", "'noir'"] + [f"'g{number}'" for number in range(998)],
    "words": [f"'w{number}'" for number in range(1_000)],
    "year": [str(number) for number in range(1_201, 3_201, 2)],
    "stamp": [str(number - 40 if number < 80 else number**4) for number in range(1_000)],
    "price": [repr(number / 10) for number in range(1_000)],
    "grade": [repr(number / 4) for number in range(1_000)],
    "released": [f'date("{1990 + n // 28}-{n % 12 + 1:02}-{n % 28 + 1:02}")' for n in range(700)],
}


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("field", LISTS)
def test_longest_lists_compile_and_are_right(catalog: Any, field: str, negated: bool) -> None:
    operator = "any" if field in ("genres", "words") else "in"
    text = f"{field} {operator} ({','.join(LISTS[field])})"
    compiled = catalog.compile(f"not ({text})" if negated else text)
    truth = stored(catalog, compiled.expression) & catalog.live
    assert 0 < truth.sum() < len(truth)
    check_right(catalog, compiled)


def test_all_of_many_tags(catalog: Any) -> None:
    compiled = catalog.compile(f"words all ({','.join(LISTS['words'])})")
    assert isinstance(compiled.expression, And)
    assert len(compiled.expression.operands) == 1_000
    check_right(catalog, compiled)


def test_several_long_lists_share_the_instructions(catalog: Any) -> None:
    lists = [f"{field} in ({','.join(LISTS[field][:230])})" for field in ("maker", "year", "stamp", "price", "grade")]
    check_right(catalog, catalog.compile(" or ".join(lists)))
    check_right(catalog, catalog.compile(" and ".join(f"not {text}" for text in lists)))


def test_long_lists_are_loosened_and_then_verified(catalog: Any) -> None:
    compiled = catalog.compile(f"stamp in ({','.join(LISTS['stamp'])})")
    assert isinstance(compiled.exact.check, OneOf)
    assert (catalog.bits(compiled.exact) & ~catalog.shown(compiled.exact)).any()


@pytest.mark.parametrize("seed", range(4))
def test_balanced_alternation_fits_the_stack(catalog: Any, seed: int) -> None:
    rng = random.Random(seed)
    names = ["nsfw", "adult", "nsfw is null", "year is null", "price is null", "owner is null", "genres is null"]
    names += [f"color={json.dumps(color)}" for color in ("red", "green", "", "it's")]
    names += [f"genres any('{genre}')" for genre in ("drama", "comedy", "war", "noir", "x")]
    pairs = [rng.sample(names, 2) for _ in range(256)]
    nodes = [f"{rng.choice(['', 'not '])}({left} and not {right})" for left, right in pairs]
    check_right(catalog, catalog.compile(balanced(nodes)))


def test_what_does_not_fit_the_stack_is_verified() -> None:
    """256 distinct pairs of planes under a full tree of and/or take nine places; the program settles for a superset."""
    rng = random.Random(5)
    names = [f"b{number}" for number in range(24)]
    fields = ", ".join(f"{name}: {{type: bool}}" for name in names)
    schema = Schema.parse(f"{{id: i, vector: {{dimension: 1, metric: ip}}, fields: {{{fields}}}}}")
    values = np.random.default_rng(5).random((24, 3_000)) < 0.5
    columns = read_columns(pa.table(dict(zip(names, values, strict=True))), schema)
    layout = PlaneLayout.choose(schema, columns)
    planes = transpose_bits(layout.encode(columns), layout.rows)
    pairs = rng.sample(list(itertools.permutations(names, 2)), 256)
    compiled = compile_filter(balanced([f"{left} and not {right}" for left, right in pairs]), schema, layout)
    assert compiled.expression is not None
    assert compiled.exact.check == compiled.expression
    assert stack_depth(compiled.exact.program) == MAX_STACK
    words = evaluate_programs(planes, torch.from_numpy(compiled.exact.program)[None])
    bits = np.unpackbits(words.numpy().view(np.uint8), bitorder="little").astype(bool)[:3_000]
    truth = matches(compiled.expression, columns, planes, torch.arange(3_000)).numpy()
    assert 0 < truth.sum() <= bits.sum() < 3_000
    assert not (truth & ~bits).any()


def balanced(nodes: list[str]) -> str:
    joins = itertools.cycle(["or", "and"])
    while len(nodes) > 1:
        join = next(joins)
        nodes = [f"({left} {join} {right})" for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count, joins", [(65, ["and", "or"]), (33, ["and", "or", "and not", "or not"])])
def test_unbalanced_alternation_fits_the_stack(catalog: Any, seed: int, count: int, joins: list[str]) -> None:
    rng = random.Random(seed)
    text, *leaves = some_leaves(rng, count)
    for leaf in leaves:
        join = rng.choice(joins)
        text = f"({text}) {join.split()[0]} {leaf}" if rng.random() < 0.5 else f"{leaf} {join} ({text})"
    check_right(catalog, catalog.compile(text))


@pytest.mark.parametrize("seed", range(10))
def test_random_shapes_fit_and_are_right(catalog: Any, seed: int) -> None:
    rng = random.Random(seed)
    nodes = some_leaves(rng, 60)
    while len(nodes) > 1:
        rng.shuffle(nodes)
        count = rng.randrange(2, 5)
        head, nodes = nodes[:count], nodes[count:]
        joined = "(" + rng.choice([" and ", " or "]).join(head) + ")"
        nodes.append(f"not {joined}" if rng.random() < 0.3 else joined)
    check_right(catalog, catalog.compile(nodes[0]))


def test_deepest_nesting(catalog: Any) -> None:
    compiled = catalog.compile("not " * 63 + "(adult)")
    assert compiled.exact.check is None
    check_right(catalog, compiled)


def test_many_ranges_are_loosened(catalog: Any) -> None:
    check_right(catalog, catalog.compile(" or ".join(f"stamp={number}" for number in range(-600, 600))))
    check_right(catalog, catalog.compile(" or ".join(f"stamp between {n} and {n + 5}" for n in range(0, 4000, 10))))


def test_too_many_terms_are_refused(catalog: Any) -> None:
    text = " or ".join(f"words any ('w{number}')" for number in range(600))
    with pytest.raises(FilterError, match="limit is 1,024") as error:
        catalog.compile(text)
    assert error.value.code == "invalid_filter"


def test_no_filter_is_live(catalog: Any) -> None:
    compiled = compile_filter(None, catalog.schema, catalog.layout)
    assert (compiled.text, compiled.expression, compiled.exact.check) == (None, None, None)
    assert np.array_equal(catalog.shown(compiled.exact), catalog.live)


@pytest.mark.parametrize(
    "text, shown", [("adult is null", False), ("adult is not null", True), ("adult and not adult", False)]
)
def test_constants(catalog: Any, text: str, shown: bool) -> None:
    compiled = catalog.compile(text)
    assert compiled.exact.check is None
    assert np.array_equal(catalog.bits(compiled.exact), catalog.live & shown)


def test_planes_decide_exact_fields_alone(catalog: Any) -> None:
    text = "color = 'red' and genres any ('war') and year >= 1980 and not nsfw and released is not null"
    assert catalog.compile(text).exact.check is None


def test_only_open_operands_are_checked(catalog: Any) -> None:
    compiled = catalog.compile("color = 'red' and maker = 'maker 5' and not owner = 'owner 7'")
    maker, owner = compiled.expression.operands[1:]
    assert compiled.exact.check == And((maker, owner))
    assert compiled.bloom.check == owner
    assert compiled.bloom.program is compiled.exact.program


def test_bloom_mode_leaves_a_disjunction_to_planes(catalog: Any) -> None:
    compiled = catalog.compile("maker = 'maker 5' or not owner = 'owner 7'")
    assert compiled.exact.check == compiled.expression
    hashed, negated = compiled.bloom.check.operands
    assert isinstance(hashed, PlaneTest)
    assert len(hashed.groups) == 1
    assert negated == compiled.expression.operands[1]


def test_compiled_filters_pickle(catalog: Any) -> None:
    compiled = catalog.compile("maker = 'maker 5' and price < 3.5")
    copy = pickle.loads(pickle.dumps(compiled))
    assert (copy.text, copy.expression, copy.exact.check) == (compiled.text, compiled.expression, compiled.exact.check)
    assert np.array_equal(copy.exact.program, compiled.exact.program)


def test_an_expression_compiles_as_its_text_does(catalog: Any) -> None:
    from_text = catalog.compile("maker != 'maker 5'")
    from_tree = compile_filter(from_text.expression, catalog.schema, catalog.layout)
    assert from_tree.text is None
    assert np.array_equal(from_tree.exact.program, from_text.exact.program)


def test_small_filters_compile_fast(catalog: Any) -> None:
    text = "color = 'red' and (year >= 1990 or not nsfw) and words any ('w1', 'w2')"
    best = min(_seconds(lambda: catalog.compile(text)) for _ in range(20))
    print(f"compile: {best * 1e6:.0f} us")
    assert best < 0.005


def _seconds(call: Any) -> float:
    start = time.thread_time()  # of this thread alone: other work on the machine does not count
    call()
    return time.thread_time() - start
