"""Catalogs made on the device that searches them: clustered vectors, many of them nearly alike, and random attributes.

Letters: N items, D dimensions, C clusters, Q queries, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silverray.kernels.bits import words_for
from silverray.kernels.codes import Codes, quantize_rows
from silverray.kernels.programs import Opcode, instruction

CHUNK = 1 << 20
"""Items made at a time: 0.5 GiB of 128 dimensions, beside 10 GiB of the largest catalog."""
TOPICS = 64
"""Groups of clusters: 32 clusters each in the headline's catalog, so that a query's 24 probes find neighbours of its
own kind."""
COPIES = 4
"""Items that are nearly the same, one after another: scores differ in the last digits, so that what int8 cannot tell
apart has to be refined."""
SHARES = (1.0, 0.1, 0.01, 0.001)
"""Parts of the items that filters pass: the least one leaves 3,000 of 3 million, which are all scored exactly."""
OF_A_SHARE = 8
"""Planes of each part, so that the queries of a batch pass different items."""
SLICES = 12
"""Of the range that the figures to reach name."""
TERMS = 4
"""Likewise of exact terms."""
HALVES = 2 * SLICES
"""Planes of half of the items: the slices of a number, then others."""

Program = list[tuple[Opcode, int]]


@dataclass(frozen=True)
class Catalog:
    """What a search reads; the attributes are those of `silverray.kernels.retrieve.Arguments`.

    Attributes:
        codes: `[N, D]` int8.
        scales: `[N]` float32.
        vectors: `[N, D]` float32.
        keys: `[N]` int64, a random permutation spread over 62 bits.
        offsets: `[C + 1]` int64; the first lists hold 0, 1 and 65 items, the others are of uneven sizes.
        planes: `[R, W]` int64: all items, `OF_A_SHARE` planes for each of `SHARES[1:]`, then `HALVES` halves.
        centroids: `[C, D]` float32.
        coded: the centroids as `quantize_rows` makes them.
    """

    codes: Tensor
    scales: Tensor
    vectors: Tensor
    keys: Tensor
    offsets: Tensor
    planes: Tensor
    centroids: Tensor
    coded: Codes

    @property
    def sizes(self) -> Tensor:
        """`[C]` int64."""
        return self.offsets.diff()

    def room(self, n_probe: int) -> int:
        """Slots in the largest `n_probe` lists: room for any query's."""
        return int(torch.topk(self.sizes, min(n_probe, len(self.sizes))).values.sum())


def make_catalog(items: int, dimensions: int, clusters: int, device: torch.device, seed: int = 0) -> Catalog:
    """Make a catalog on a device, a chunk at a time.

    Cluster centres are unit vectors around a few topics, and a cluster's centroid is its centre. Its items are the
    centre, plus a part that a few items share, plus a small part of their own.
    """
    g = torch.Generator(device).manual_seed(seed)
    topics = torch.randn(min(TOPICS, clusters), dimensions, generator=g, device=device)
    own = torch.randn(clusters, dimensions, generator=g, device=device)
    which = torch.randint(len(topics), (clusters,), generator=g, device=device)
    centroids = torch.nn.functional.normalize(topics[which] + 0.8 * own, dim=1)
    offsets = _offsets(items, clusters, g)
    cluster_of = torch.repeat_interleave(torch.arange(clusters, device=device), offsets.diff(), output_size=items)
    vectors = torch.empty(items, dimensions, device=device)
    codes = torch.empty(items, dimensions, dtype=torch.int8, device=device)
    scales = torch.empty(items, device=device)
    for start in range(0, items, CHUNK):
        part = slice(start, min(start + CHUNK, items))
        count = part.stop - part.start
        noise = torch.randn(-(-count // COPIES), dimensions, generator=g, device=device)
        noise = noise.repeat_interleave(COPIES, 0)[:count].mul_(0.7 / dimensions**0.5)
        noise += torch.randn(count, dimensions, generator=g, device=device) * (0.1 / dimensions**0.5)
        centres = centroids[cluster_of[part]]
        vectors[part] = centres + noise
        # What an index quantises is what is left of the stored vector, not the noise before it was rounded.
        codes[part], scales[part] = quantize_rows(vectors[part] - centres)
    keys = torch.randperm(items, generator=g, device=device) * ((1 << 62) // items)
    planes = _planes(items, g)
    return Catalog(codes, scales, vectors, keys, offsets, planes, centroids, quantize_rows(centroids))


def _offsets(items: int, clusters: int, g: torch.Generator) -> Tensor:
    """Uneven lists: `[C + 1]` int64."""
    weights = torch.randn(clusters, generator=g, device=g.device).mul_(0.35).exp_()
    sizes = (weights * (items / weights.sum())).floor().long()
    few = torch.tensor([0, 1, 65], device=g.device)[: max(0, clusters - 1)]
    sizes[: len(few)] = few.clamp(max=items // clusters)
    # What rounding left goes to the last list and one item at a time to others; what is too much comes from the last.
    rest = items - int(sizes.sum())
    spread = max(0, min(rest, clusters - len(few)))
    sizes[len(few) : len(few) + spread] += 1
    sizes[-1] += rest - spread
    assert int(sizes.min()) >= 0
    assert int(sizes.sum()) == items
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _planes(items: int, g: torch.Generator) -> Tensor:
    rows = [torch.ones(1, device=g.device)]
    rows += [torch.full((OF_A_SHARE,), share, device=g.device) for share in SHARES[1:]]
    rows += [torch.full((HALVES,), 0.5, device=g.device)]
    return torch.stack([_random_bits(items, float(share), g) for share in torch.cat(rows)])


def _random_bits(items: int, share: float, g: torch.Generator) -> Tensor:
    """`[W]` int64 of which a share of the first `items` bits is set."""
    words, powers = (
        words_for(items),
        torch.ones((), dtype=torch.int64, device=g.device) << torch.arange(64, device=g.device),
    )
    plane = torch.empty(words, dtype=torch.int64, device=g.device)
    for start in range(0, words, CHUNK):
        part = slice(start, min(start + CHUNK, words))
        bits = torch.rand((part.stop - part.start) * 64, generator=g, device=g.device) < share
        bits[max(0, items - start * 64) :] = False
        plane[part] = (bits.view(-1, 64) * powers).sum(1)
    return plane


def make_queries(catalog: Catalog, count: int, seed: int = 1) -> Tensor:
    """Items moved a little towards others: `[Q, D]` float32."""
    vectors = catalog.vectors
    g = torch.Generator(vectors.device).manual_seed(seed)
    first, second = torch.randint(len(vectors), (2, count), generator=g, device=vectors.device)
    return vectors[first] + 0.25 * (vectors[second] - vectors[first])


def encode(programs: Sequence[Program], device: torch.device) -> Tensor:
    """Programs as `[U, L]` int32, padded with NOPs."""
    length = max(map(len, programs))
    rows = [[instruction(*code) for code in program] + [0] * (length - len(program)) for program in programs]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def sharing(share: float, count: int) -> list[Program]:
    """Filters that pass a share of the items, `count` of them, `OF_A_SHARE` different."""
    if share == 1:
        return [[(Opcode.LOAD, 0)]] * count
    first = 1 + OF_A_SHARE * (SHARES.index(share) - 1)
    return [[(Opcode.LOAD, first + number % OF_A_SHARE), (Opcode.AND, 0)] for number in range(count)]


def half(number: int) -> int:
    """The plane of a number's slice, or of one of the other halves."""
    return 1 + OF_A_SHARE * (len(SHARES) - 1) + number % HALVES


def four_terms(number: int) -> Program:
    """Four exact terms, and the live items."""
    terms = [half(number + 5 * step) for step in range(TERMS)]
    return [(Opcode.LOAD, terms[0]), *((Opcode.AND, term) for term in terms[1:]), (Opcode.AND, 0)]


def twelve_planes(number: int) -> Program:
    """One of seven, and one of four, and another, and the live items."""
    first, second = ([half(number + start + 3 * step) for step in range(n)] for start, n in ((0, 7), (1, 4)))
    return [
        (Opcode.LOAD, first[0]), *((Opcode.OR, plane) for plane in first[1:]),
        (Opcode.LOAD, second[0]), *((Opcode.OR, plane) for plane in second[1:]),
        (Opcode.STACK_AND, 0), (Opcode.AND, half(number + 2)), (Opcode.AND, 0),
    ]  # fmt: skip


def a_range(number: int) -> Program:
    """Numbers of 12 bits from one bound to another, and the live items."""
    low, high = 101 + 13 * number % 900, 2_995 + 7 * number % 900
    return [*_at_least(low), *_at_least(high + 1), (Opcode.STACK_NOT, 0), (Opcode.STACK_AND, 0), (Opcode.AND, 0)]


def _at_least(bound: int) -> Program:
    """Numbers of `SLICES` bits that are no less than a bound, from the lowest bit that decides."""
    lowest = (bound & -bound).bit_length() - 1
    rest = [(Opcode.AND if bound >> bit & 1 else Opcode.OR, half(bit)) for bit in range(lowest + 1, SLICES)]
    return [(Opcode.LOAD, half(lowest)), *rest]


FILTERS = {"4 exact terms": four_terms, "12 planes": twelve_planes, "a 12-bit range": a_range}
"""Filters by what they are, as in `silverray bench filter`."""
