"""Seeded lists, filters and queries for the kernels' tests, and how results are compared.

Letters: N slots, D dimensions, C clusters, Q queries, P probes, R planes, W words, U programs, L instructions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.bits import words_for
from silverray.kernels.programs import Opcode, instruction

PLANES = 9
"""Plane 0 holds the live slots, the others are random, past the last slot too."""
THREADS = (1, 2, 3)

_DEEP = [(Opcode.LOAD, plane) for plane in range(1, 9)] + [
    (Opcode.STACK_AND, 0), (Opcode.STACK_NOT, 0), (Opcode.STACK_OR, 0), (Opcode.STACK_AND, 0), (Opcode.NOP, 0),
    (Opcode.STACK_OR, 0), (Opcode.STACK_NOT, 0), (Opcode.STACK_AND, 0), (Opcode.STACK_OR, 0), (Opcode.STACK_OR, 0),
    (Opcode.AND, 0),
]  # fmt: skip
FILTERS: dict[str, list[tuple[Opcode, int]]] = {
    "all": [(Opcode.LOAD, 0)],
    "none": [(Opcode.LOAD, 0), (Opcode.ANDNOT, 0)],
    "half": [(Opcode.LOAD, 1), (Opcode.AND, 0)],
    "sparse": [(Opcode.LOAD, 1), *[(Opcode.AND, plane) for plane in (2, 3, 4, 5, 6, 0)]],
    "dense": [(Opcode.LOAD, 1), (Opcode.OR, 2), (Opcode.OR, 3), (Opcode.AND, 0)],
    "deep": _DEEP,
}
"""Programs of every opcode; `deep` fills the stack."""


class ScanArguments(NamedTuple):
    """Arguments of `scan` up to `keep`."""

    codes: Tensor
    scales: Tensor
    keys: Tensor
    offsets: Tensor
    planes: Tensor
    programs: Tensor
    filters: Tensor
    queries: Tensor
    probes: Tensor
    bases: Tensor


class ExactScanArguments(NamedTuple):
    """Arguments of `exact_scan` up to `k`."""

    vectors: Tensor
    keys: Tensor
    offsets: Tensor
    planes: Tensor
    programs: Tensor
    filters: Tensor
    queries: Tensor
    probes: Tensor


@dataclass
class Lists:
    """The arguments of the scan, by name."""

    codes: Tensor
    scales: Tensor
    vectors: Tensor
    keys: Tensor
    offsets: Tensor
    planes: Tensor
    programs: Tensor
    filters: Tensor
    queries: Tensor
    probes: Tensor
    bases: Tensor
    centroids: Tensor

    @property
    def scan(self) -> ScanArguments:
        return ScanArguments(
            self.codes, self.scales, self.keys, self.offsets, self.planes, self.programs, self.filters, self.queries,
            self.probes, self.bases,
        )  # fmt: skip

    @property
    def exact_scan(self) -> ExactScanArguments:
        return ExactScanArguments(
            self.vectors, self.keys, self.offsets, self.planes, self.programs, self.filters, self.queries, self.probes,
        )  # fmt: skip


def encode(programs: list[list[tuple[Opcode, int]]]) -> Tensor:
    """Programs as `[U, L]` int32, padded with NOPs."""
    length = max(len(program) for program in programs) + 3
    rows = [[instruction(*code) for code in program] + [0] * (length - len(program)) for program in programs]
    return torch.tensor(rows, dtype=torch.int32)


def make_lists(
    n: int,
    d: int,
    clusters: int = 1,
    queries: int = 1,
    probes: int = 1,
    *,
    seed: int = 0,
    filters: tuple[str, ...] = tuple(FILTERS),
    dtype: torch.dtype = torch.float32,
    spare_words: int = 0,
) -> Lists:
    """Random lists (some of them empty), a random one of `filters` for each query, a tenth of the probes -1."""
    g = torch.Generator().manual_seed(seed)
    cuts = torch.sort(torch.randint(0, n + 1, (clusters - 1,), generator=g)).values
    planes = torch.randint(-(1 << 62), 1 << 62, (PLANES, words_for(n) + spare_words), generator=g) << 1
    planes ^= torch.randint(0, 2, planes.shape, generator=g)
    planes[0] = pack(np.ones((1, n), bool), planes.shape[1])[0]
    chosen = torch.stack([torch.randperm(clusters, generator=g)[:probes] for _ in range(queries)])
    chosen[torch.rand(chosen.shape, generator=g) < 0.1] = -1
    return Lists(
        codes=torch.randint(-127, 128, (n, d), dtype=torch.int8, generator=g),
        scales=torch.rand(n, generator=g) * 0.01,
        vectors=torch.randn(n, d, generator=g).to(dtype),
        keys=torch.randperm(n, generator=g) * ((1 << 62) // max(1, n)),
        offsets=torch.cat([torch.tensor([0]), cuts, torch.tensor([n])]),
        planes=planes,
        programs=encode([FILTERS[name] for name in filters]),
        filters=torch.randint(0, len(filters), (queries,), generator=g),
        queries=torch.randn(queries, d, generator=g),
        probes=chosen,
        bases=torch.randn(queries, clusters, generator=g),
        centroids=torch.randn(clusters, d, generator=g),
    )


def pack(bits: np.ndarray, words: int | None = None) -> Tensor:
    """`[rows, n]` bool to int64 words."""
    words = words_for(bits.shape[1]) if words is None else words
    padded = np.zeros((len(bits), words * 64), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int64))


def unpack(words: Tensor, n: int) -> np.ndarray:
    """int64 words to `[rows, n]` bool."""
    flat = np.unpackbits(words.numpy().view(np.uint8), axis=1, bitorder="little")
    return flat[:, :n].astype(bool)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let PyTorch, and so the kernels, use some number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Scores and places are equal, order included."""
    for part, wanted in zip(found, expected, strict=True):
        assert part.dtype == wanted.dtype
        np.testing.assert_array_equal(part.numpy(), wanted.numpy())


def assert_same_rows(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Each row holds the same pairs of score and place, in any order."""
    assert_same(_sorted(found), _sorted(expected))


def _sorted(pairs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    scores, places = pairs
    places, order = places.sort(dim=1)
    return scores.gather(1, order), places
