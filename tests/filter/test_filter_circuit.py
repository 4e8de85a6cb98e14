"""Boolean functions of planes: programs, approximations that fit a stack, and sets of codes."""

from __future__ import annotations

import random
from functools import reduce

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from silverray.kernels.programs import evaluate_programs
from silverray.shard.filter.circuit import Circuit, Node, emit
from silverray.shard.filter.intervals import coarsen, intervals_node, least_size, merge, merge_nearest

Mask = NDArray[np.bool_]


def truth(node: Node, planes: Mask) -> Mask:
    """Evaluate a node directly; `planes` is `[R, n]` bool."""
    parts = [truth(operand, planes) for operand in node.operands]
    match node.kind:
        case "plane":
            plane: Mask = planes[node.plane]
            return plane
        case "not":
            return ~parts[0]
        case "and":
            return reduce(np.logical_and, parts)
        case "or":
            return reduce(np.logical_or, parts)
    return np.full(planes.shape[1], node.kind == "true")


def run(node: Node, planes: Mask) -> Mask:
    """Evaluate a node by its program."""
    words = np.packbits(planes, axis=1, bitorder="little").view(np.int64)
    program = torch.tensor([emit(node)], dtype=torch.int32)
    result = evaluate_programs(torch.from_numpy(words), program)
    return np.unpackbits(result.numpy().view(np.uint8), bitorder="little").astype(bool)


def random_node(circuit: Circuit, rng: random.Random, depth: int) -> tuple[Node, object]:
    """A node, and the same function as a tree of tuples."""
    kind = rng.choice(["plane", "not", "and", "or", "and", "or"]) if depth else "plane"
    if kind == "plane":
        plane = rng.randrange(12)
        return circuit.plane(plane), ("plane", plane)
    count = 1 if kind == "not" else rng.randrange(2, 4)
    nodes, trees = zip(*(random_node(circuit, rng, depth - 1) for _ in range(count)), strict=True)
    join = {"not": lambda nodes: circuit.negate(nodes[0]), "and": circuit.all, "or": circuit.any}[kind]
    return join(nodes), (kind, *trees)


def tree_truth(tree: object, planes: Mask) -> Mask:
    assert isinstance(tree, tuple)
    kind, *rest = tree
    if kind == "plane":
        return planes[rest[0]]
    parts = [tree_truth(part, planes) for part in rest]
    return ~parts[0] if kind == "not" else reduce(np.logical_and if kind == "and" else np.logical_or, parts)


def all_assignments(count: int) -> Mask:
    return (np.arange(1 << count) >> np.arange(count)[:, None] & 1).astype(bool)


@pytest.mark.parametrize("seed", range(60))
def test_simplifying_keeps_the_function(seed: int) -> None:
    circuit = Circuit()
    node, tree = random_node(circuit, random.Random(seed), 5)
    planes = all_assignments(12)
    expected = tree_truth(tree, planes)
    assert np.array_equal(truth(node, planes), expected)
    if node.kind not in ("true", "false"):
        assert len(emit(node)) == node.size
        assert np.array_equal(run(node, planes), expected)


def test_equal_functions_of_one_shape_are_one_node() -> None:
    circuit = Circuit()
    a, b, c = map(circuit.plane, range(3))
    assert circuit.all([a, circuit.all([b, c])]) is circuit.all([a, b, c])
    assert circuit.negate(circuit.negate(a)) is a
    assert circuit.all([a, circuit.negate(a)]) is circuit.false
    assert circuit.any([circuit.all([a, b]), circuit.negate(circuit.all([a, b]))]) is circuit.true
    assert circuit.any([a, circuit.false, a]) is a
    assert circuit.all([]) is circuit.true


def balanced(circuit: Circuit, levels: int, rng: random.Random) -> Node:
    """Pairs of 24 planes under a full tree of `levels` levels of or/and: it takes `levels` + 1 places."""
    pairs = [(left, right) for left in range(24) for right in range(24) if left != right]
    nodes = [
        circuit.all([circuit.plane(left), circuit.negate(circuit.plane(right))])
        for left, right in rng.sample(pairs, 1 << levels)
    ]
    for level in range(levels):
        join = circuit.all if level % 2 else circuit.any
        nodes = [join(pair) for pair in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("depth", range(1, 9))
def test_fitting_errs_on_the_asked_side(depth: int, upper: bool) -> None:
    circuit = Circuit()
    rng = random.Random(depth)
    node = balanced(circuit, 8, rng)
    assert node.depth == 9
    for target in (node, circuit.negate(node)):
        fitted = circuit.fit(target, depth, upper)
        assert fitted.depth <= depth
        planes = np.random.default_rng(depth).random((24, 4096)) < 0.8
        exact, near = truth(target, planes), truth(fitted, planes)
        assert not (exact & ~near if upper else near & ~exact).any()
        if depth == 8:
            assert fitted.kind not in ("true", "false")
    assert circuit.fit(node, 9, upper) is node


@pytest.mark.parametrize("width", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", range(30))
def test_sets_of_codes(width: int, seed: int) -> None:
    rng = random.Random(seed)
    top = (1 << width) - 1
    chosen = rng.sample(range(top + 1), rng.randrange(top + 2))
    spans = [(code, min(code + rng.choice([0, 0, 1, 9]), top)) for code in chosen]
    circuit = Circuit()
    node = intervals_node(circuit, [circuit.plane(bit) for bit in range(width)], merge(spans))
    member = [any(low <= code <= high for low, high in spans) for code in range(top + 1)]
    assert truth(node, all_assignments(width)).tolist() == member
    assert node.depth <= 6
    assert least_size(width, merge(spans), 1_000) <= node.size


def test_a_range_costs_two_instructions_a_bit_and_a_code_one() -> None:
    circuit = Circuit()
    bits = [circuit.plane(bit) for bit in range(12)]
    assert intervals_node(circuit, bits, [(1234, 1234)]).size == 12
    assert max(intervals_node(circuit, bits, [(low, low + 1500)]).size for low in range(1, 2500, 7)) <= 26
    assert max(intervals_node(circuit, bits, [(low, 4095)]).size for low in range(1, 4095, 7)) <= 12
    assert intervals_node(circuit, bits, [(code, code) for code in range(0, 4096, 2)]).size == 2


def test_merging_and_coarsening_intervals() -> None:
    assert merge([(5, 6), (0, 1), (2, 3), (6, 9)]) == [(0, 3), (5, 9)]
    assert merge_nearest([(0, 1), (3, 4), (10, 11), (90, 91)], 2) == [(0, 11), (90, 91)]
    assert merge_nearest([(0, 1), (3, 4)], 1) == [(0, 4)]
    assert coarsen([(5, 6), (9, 9), (30, 30)], 2, 30) == [(4, 11), (28, 30)]
