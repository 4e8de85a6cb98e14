"""CUDA graphs: for a few sizes of batch, the launches of a shard's retrieval on a GPU replayed as one.

Letters: Q queries, D dimensions, U programs, L instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from silverray.kernels.programs import Opcode, instruction
from silverray.shard.index.ladder import K_STEPS
from silverray.shard.index.planner import Plan
from silverray.shard.model.retrieval import Found, RetrievalModel
from silverray.shard.model.search import MAX_ROOM

BATCHES = (1, 4, 16, 64)
"""Sizes of captured batches: steps of 4 pad a batch to four times its size at most, and 64 is the router's largest."""
INSTRUCTIONS = (16, 64)
"""Lengths of captured programs: ordinary filters have up to 16 instructions, and longer ones than 64 run uncaptured."""
LONGEST_K = 1_000
"""Largest k that is captured: beyond it the work takes longer than the launches that a graph saves."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Queries `[Q, D]`, programs `[U, L]`, filters `[Q]` and wanted `[Q]`."""
Run = Callable[[Tensor, Tensor, Tensor, Tensor], Found]


class Bucket(NamedTuple):
    """A size that is captured.

    Attributes:
        queries: Q.
        programs: U; the last one passes nothing, and is the filter of queries that are not there.
        instructions: L.
        k: number of items of an answer.
    """

    queries: int
    programs: int
    instructions: int
    k: int

    def inputs(self, dimension: int, device: torch.device) -> Inputs:
        """Inputs of this size that find nothing."""
        programs = torch.full((self.programs, self.instructions), int(Opcode.NOP), dtype=torch.int32, device=device)
        programs[:, 0], programs[:, 1] = instruction(Opcode.LOAD), instruction(Opcode.ANDNOT)
        filters = torch.full((self.queries,), self.programs - 1, device=device)
        return torch.zeros(self.queries, dimension, device=device), programs, filters, torch.ones_like(filters)


class CudaGraphs:
    """Runs a retrieval model, from a captured graph where there is one of the batch's size; called like the model.

    Args:
        model: what to run, the retrieval of a `ShardModel`.
        capture: makes a function that takes the same inputs and gives what `run` would, of which the tensors are the
            caller's.
    """

    def __init__(self, model: RetrievalModel, capture: Callable[[Run, Inputs], Run] | None = None) -> None:
        self.model = model
        self._capture = capture or Capture()
        self._captured: dict[Bucket, Run] = {}

    def warm_up(self) -> None:
        """Capture every size that has room; a batch of another size, or with `n_probe`, runs as it is."""
        ks = [k for k in K_STEPS if k <= LONGEST_K]
        dimension, device = self.model.lists.codes.shape[1], self.model.lists.codes.device
        for queries, instructions, k in product(reversed(BATCHES), INSTRUCTIONS, ks):
            if queries * self.model.planner.room(k, None) > MAX_ROOM:
                continue
            for programs in sorted({2, queries + 1}):
                bucket = Bucket(queries, programs, instructions, k)
                self._captured[bucket] = self._capture(
                    lambda *inputs, k=k: self.model(*inputs, k), bucket.inputs(dimension, device)
                )

    def __call__(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        wanted: Tensor,
        k: int,
        n_probe: int | None = None,
        room: int | None = None,
    ) -> Found:
        """Find the k best items of each query; arguments and result are those of `RetrievalModel.forward`."""
        bucket = _bucket(queries.shape[0], programs.shape[0], programs.shape[1], k)
        replay = self._captured.get(bucket) if bucket and n_probe is None and room is None else None
        if bucket is None or replay is None:
            found: Found = self.model(queries, programs, filters, wanted, k, n_probe, room)
            return found
        return _cut(replay(*_padded(bucket, queries, programs, filters, wanted)), len(queries), k)


class Capture:
    """Captures CUDA graphs whose scratch memory is shared, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run, inputs: Inputs) -> Run:
        """Capture `run`; what it returns is copied before the next replay overwrites it."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run(*inputs)  # compiles what was not yet
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = run(*inputs)

        def replay(*given: Tensor) -> Found:
            for mine, its in zip(inputs, given, strict=True):
                mine.copy_(its)
            graph.replay()
            plan = Plan(*(part.clone() for part in found.plan))
            return Found(found.slots.clone(), found.scores.clone(), plan, found.overflow.clone())

        return replay


def _bucket(queries: int, programs: int, instructions: int, k: int) -> Bucket | None:
    """The least size that holds a batch; None where it is larger than all."""
    if max(queries, programs) > BATCHES[-1] or instructions > INSTRUCTIONS[-1] or k > LONGEST_K:
        return None
    batch = next(size for size in BATCHES if max(queries, programs) <= size)
    return Bucket(
        batch,
        2 if programs == 1 else batch + 1,
        next(size for size in INSTRUCTIONS if instructions <= size),
        next(step for step in K_STEPS if k <= step),
    )


def _padded(bucket: Bucket, queries: Tensor, programs: Tensor, filters: Tensor, wanted: Tensor) -> Inputs:
    empty = bucket.inputs(queries.shape[1], queries.device)
    count, (used, length) = len(queries), programs.shape
    empty[0][:count], empty[2][:count], empty[3][:count] = queries, filters, wanted
    empty[1][:used] = pad(programs, (0, bucket.instructions - length), value=int(Opcode.NOP))
    return empty


def _cut(found: Found, count: int, k: int) -> Found:
    plan = Plan(*(part[:count] for part in found.plan))
    return Found(found.slots[:count, :k], found.scores[:count, :k], plan, found.overflow[:count])
