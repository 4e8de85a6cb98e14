"""What the kernels' PTX must do: the same as the references, bit for bit. `__main__` runs each of them."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from silverray.kernels import bits, programs, scan_reference, scores
from silverray.kernels.gpu import programs as gpu_programs
from silverray.kernels.gpu import scan as gpu_scan
from silverray.kernels.gpu import scores as gpu_scores
from silverray.kernels.gpu import survivors as gpu_survivors

from ..cases import assert_same, assert_same_rows, encode, make_lists, unpack
from .filters import STACKED

EDGES = [1, 63, 64, 65, 16_383, 16_384, 16_385, 16_449]
"""Slots: `_evaluate` works on 256 words, 16,384 slots."""
LIST_EDGES = [(0, 1), (64, 3), (2_047, 4), (2_048, 5), (2_049, 1), (4_097, 2)]
"""Slots and clusters: `_evaluate_lists` works on 4 lists and on 32 words, 2,048 slots, of each."""


def evaluate(kernels: ModuleType, slots: int) -> None:
    """Filters over all words, against the reference."""
    lists, filters = make_lists(slots, 1, seed=slots), encode(STACKED)
    assert_same((kernels.launch(lists.planes, filters),), (programs.reference(lists.planes, filters),))


def evaluate_lists(kernels: ModuleType, slots: int, clusters: int) -> None:
    """Filters over the words of wanted lists and what passes of them, against the reference."""
    lists, filters = make_lists(slots, 1, clusters, seed=slots), encode(STACKED)
    wanted = (torch.arange(len(filters) * clusters) % 3 > 0).view(len(filters), clusters).int()
    words, untouched = programs.reference(lists.planes, filters), torch.full((len(filters), lists.planes.shape[1]), -7)
    found = untouched.clone()
    inside = kernels.count_lists(lists.planes, filters, lists.offsets, wanted, found)
    assert_same((inside,), (bits.count_ranges(words, lists.offsets) * wanted,))
    for row, chosen in enumerate(wanted.bool()):
        marked = torch.zeros(words.shape[1], dtype=torch.bool)
        for first, last in zip(lists.offsets[:-1][chosen].tolist(), lists.offsets[1:][chosen].tolist(), strict=True):
            if first < last:
                marked[first // 64 : (last + 63) // 64] = True
        assert_same((found[row],), (torch.where(marked, words[row], untouched[row]),))


def list_bits(slots: int) -> None:
    """The set bits of each row as a list, in no order."""
    words = make_lists(slots, 1, seed=slots).planes
    lists, counts = gpu_survivors.list_bits(words, slots, slots)
    for row, chosen in enumerate(unpack(words, slots)):
        assert sorted(lists[row, : counts[row]].tolist()) == chosen.nonzero()[0].tolist()


def scan_lists(slots: int, dimensions: int, clusters: int, queries: int) -> None:
    """Scores of what passes in the probed lists, against those of the whole scan."""
    its = make_lists(slots, dimensions, clusters, queries, clusters, seed=slots)
    probed = torch.zeros(queries, clusters + 1, dtype=torch.int8)
    probed = probed.scatter_(1, torch.where(its.probes >= 0, its.probes, clusters), 1)[:, :clusters].contiguous()
    words = programs.reference(its.planes, its.programs)
    room = gpu_scan.scan_lists(
        its.codes, its.scales, its.offsets, words, its.filters, its.queries, probed, its.bases, slots
    )
    there = torch.arange(slots) < room.counts[:, None]
    found = torch.where(there, room.scores, -torch.inf), torch.where(there, room.slots.long(), -1)
    arguments: tuple[Any, ...] = (*its.scan, slots)
    assert_same_rows(found, scan_reference.scan(*arguments))


def exact_scores(dimensions: int, dtype: torch.dtype) -> None:
    """Inner products, bit for bit."""
    its, generator = make_lists(77, dimensions, queries=5, dtype=dtype), torch.Generator().manual_seed(dimensions)
    pairs = torch.randint(0, 5, (131,), generator=generator), torch.randint(-1, 77, (131,), generator=generator)
    found = gpu_scores.launch(its.vectors, its.queries, *pairs)
    assert_same((found,), (scores.reference(its.vectors, its.queries, *pairs),))


def with_one_value(check: Callable[..., None], *arguments: int) -> None:
    """Run a check on kernels whose stack is eight names of one value."""
    source, value = Path(gpu_programs.__file__).read_text(), "tl.zeros_like(at)"
    before, first, after = source.partition(value)
    assert after.count(value) == programs.MAX_STACK - 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one_value.py"
        file.write_text(before + first + after.replace(value, "top"))
        specification = importlib.util.spec_from_file_location("one_value", file)
        assert specification is not None
        assert specification.loader is not None
        kernels = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(kernels)
        check(kernels, *arguments)


CHECKS: dict[str, Callable[[], None]] = {
    **{f"evaluate-{slots}": partial(evaluate, gpu_programs, slots) for slots in EDGES},
    **{f"evaluate_lists-{case[0]}-{case[1]}": partial(evaluate_lists, gpu_programs, *case) for case in LIST_EDGES},
    **{f"list_bits-{slots}": partial(list_bits, slots) for slots in (63, 2_049)},
    "scan_lists-one": partial(scan_lists, 65, 16, 2, 1),
    "scan_lists-several": partial(scan_lists, 200, 50, 3, 17),
    "exact_scores-float32": partial(exact_scores, 3, torch.float32),
    "exact_scores-bfloat16": partial(exact_scores, 50, torch.bfloat16),
}
"""What must hold, by name."""
MUTANTS: dict[str, Callable[[], None]] = {
    "one_value-evaluate": partial(with_one_value, evaluate, 65),
    "one_value-evaluate_lists": partial(with_one_value, evaluate_lists, 65, 3),
}
"""What must not hold: a check that nothing fails shows nothing."""
