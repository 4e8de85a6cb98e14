"""The engine: answers batches of queries from loaded partitions, synchronously."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.kernels import topk
from silverray.kernels.programs import Opcode, instruction
from silverray.shard.api import Coverage, SearchReply, TaskScores, shown
from silverray.shard.engine.explanation import explain_search, explain_stages
from silverray.shard.engine.loaded import LoadedIndex
from silverray.shard.engine.loading import check_dimension, check_loading, choose_device
from silverray.shard.engine.reply_sizes import longest, too_large
from silverray.shard.engine.rerank import WINDOW, SetRanker
from silverray.shard.engine.runner import Best, Programs, ShardRunner
from silverray.shard.filter.compiler import Plan as FilterPlan
from silverray.shard.filter.expression import And
from silverray.shard.index.key_index import FREE
from silverray.shard.index.loader import load_partitions
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.model.candidate_features import CandidateFeatures, read_features
from silverray.shard.model.ranking import Ranked
from silverray.shard.model.scorer_files import INNER_PRODUCT, OverArch, load_overarch
from silverray.shard.model.search import Answers
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import Objects, ResultBatch, as_objects, featured
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import FormulaInputs, Valuer

_logger = logging.getLogger(__name__)

_EVERYTHING = (instruction(Opcode.LOAD),)
_NOTHING = (instruction(Opcode.LOAD), instruction(Opcode.ANDNOT))


class Engine:
    """The model and the payload of a shard's partitions.

    What a search finds is ranked where there is anything to rank by: several tasks, a learned scorer or a formula.
    Otherwise it stands by its exact scores. A set-wise scorer comes after that, on whole lists: here where a request
    is answered from these partitions alone, and elsewhere where it asks for features of candidates.

    Args:
        catalog: the snapshot's catalog.
        index: its partitions held here.
        partitions: which ones these are.
        overarch: the snapshot's scorer.
        value: the formulas.
        slack: free slots for each item when they were loaded; None if they take no updates.
        window: items of a list that a set-wise scorer judges together.

    Attributes:
        applied: number of the last log entry that answers include.
        set_ranker: re-ranks lists; None where the scorer is pointwise.

    Raises:
        FormulaError: a formula is wrong.
    """

    def __init__(
        self,
        catalog: Catalog,
        index: LoadedIndex,
        partitions: Sequence[int],
        overarch: OverArch,
        value: ValueSettings,
        slack: float | None = None,
        window: int = WINDOW,
    ) -> None:
        self.catalog = catalog
        self.partitions = tuple(partitions)
        self.slack = slack
        self.applied = catalog.seq
        self.scorer = overarch.name
        self.valuer = Valuer(value, catalog.tasks, catalog.schema)
        pointwise = overarch.scorer.pointwise
        self._of_items, self._of_lists = (overarch, INNER_PRODUCT) if pointwise else (INNER_PRODUCT, overarch)
        self.set_ranker = None if pointwise else SetRanker(overarch.scorer, catalog.tasks, self.valuer, window)
        self.install(index)

    def install(self, index: LoadedIndex) -> None:
        """Answer from these arrays from now on; no other call may be going on."""
        self.index = index
        self.payload = index.loaded.payload
        self.memory = index.loaded.memory
        retrieval = index.retrieval
        scorer = self._of_items.scorer.to(retrieval.lists.keys.device)
        self.model = ShardModel(
            retrieval, len(self.catalog.tasks), scorer, self._of_items.features, self.valuer.models
        ).eval()
        self.runner = ShardRunner(self.model, index.search, self.valuer)

    @property
    def items(self) -> int:
        """How many items there are now."""
        return self.model.lists.items

    @classmethod
    def open(
        cls,
        path: str | Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        item_cache: ItemCache = "device",
        slack: float | None = None,
        value: ValueSettings = ValueSettings(),  # noqa: B008 (immutable)
        window: int = WINDOW,
    ) -> Self:
        """Load partitions of a snapshot.

        Args:
            path: the snapshot's directory.
            partitions: which ones; None is all.
            device: a torch device, or "auto" for CUDA where there is one.
            threads: of the whole process for computing; None leaves them.
            item_cache: where item vectors lie, if the device is a GPU: in its memory, or pinned in the host's.
            slack: free slots for each item, if there will be updates (see `silverray.shard.live`); None if not.
            value: the formulas that value candidates.
            window: items of a list that a set-wise scorer judges together, where none but this engine does.

        Returns:
            The engine, ready to answer: its kernels are compiled.

        Raises:
            ValueError: an argument is none of what is expected.
            SnapshotError: a file is missing or altered, or the device does not search so many dimensions; the message
                names the file or the snapshot.
            ShardTooLarge: the partitions do not fit into memory.
            FormulaError: a formula is wrong.
        """
        placement = Placement(choose_device(device), item_cache)
        check_loading(partitions, threads, item_cache, slack, value, window)
        if threads is not None:
            torch.set_num_threads(threads)
        files = SnapshotFiles.open(path)
        catalog = Catalog.of(files)
        check_dimension(catalog.path, catalog.dimension, placement.device)
        chosen = range(catalog.partitions) if partitions is None else [int(number) for number in partitions]
        overarch = load_overarch(files, catalog.schema)
        loaded = load_partitions(files, catalog, chosen, placement, slack=slack)
        engine = cls(catalog, LoadedIndex.of(loaded), chosen, overarch, value, slack, window)
        engine.warm_up()
        _logger.info("%s items, kernels %s, %s threads", engine.items, engine.kernels, torch.get_num_threads())
        return engine

    @property
    def kernels(self) -> str:
        """Which kernels compute: the name of the CPU's vector instructions, or the device's type."""
        device = self.model.lists.keys.device.type
        if device != "cpu":
            return device
        from silverray.kernels.cpu.simd import implementation

        return implementation()

    def warm_up(self) -> None:
        """Compile every kernel that a search may need, so that no request waits for it."""
        query = np.ones((1, self.catalog.dimension), dtype=np.float32)
        everything, nothing = (np.array(codes, dtype=np.int32) for codes in (_EVERYTHING, _NOTHING))
        for check in (None, And(())):
            self.find(query, [FilterPlan(nothing, check)], [1])  # survivors are scored
            for refine_all in (False, True):
                self.find(query, [FilterPlan(everything, check)], [1], 1, refine_all)
        topk.warm_up(self.model.lists.keys.device)
        for rows in (1, 2) if len(self.model.lists) else ():
            users = self.model.lists.centroids.new_zeros(rows, len(self.catalog.tasks), self.catalog.dimension)
            self.model.scoring(users, torch.full((rows, 1), -1, device=users.device))

    @torch.inference_mode()
    def find(
        self,
        queries: NDArray[np.float32],
        plans: Sequence[FilterPlan],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Answers:
        """Run the search; the arguments are those of `Search`, with one compiled plan for each query."""
        vectors = _tensor(queries).to(self.model.lists.keys.device)
        return self.runner.search(vectors, *self._programs(plans), ks, n_probe, refine_all)

    @torch.inference_mode()
    def best(
        self,
        queries: NDArray[np.float32],
        plans: Sequence[FilterPlan],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
        asked: Sequence[FormulaInputs] | None = None,
        quotas: Sequence[int] = (),
    ) -> Best:
        """Find the best items of B requests.

        Args:
            queries: `[B * T, D]` float32, the tasks of a request one after another.
            plans: of each request's filter.
            ks: number of items wanted by each; all of one group of `answer`.
            n_probe: clusters to visit; None lets the planner choose.
            refine_all: score every visited item exactly.
            asked: what each request says of its values; None is nothing.
            quotas: of a model with several tasks, as in `ShardModel.forward`.
        """
        vectors = _tensor(queries).to(self.model.lists.keys.device)
        of_requests = vectors.view(len(plans), self.model.tasks, self.catalog.dimension)
        asked = asked or [FormulaInputs()] * len(plans)
        return self.runner.best(of_requests, self._programs(plans), ks, n_probe, refine_all, asked, quotas)

    def _programs(self, plans: Sequence[FilterPlan]) -> Programs:
        """The programs of filters, each once."""
        device = self.model.lists.keys.device
        if all(plan is plans[0] for plan in plans):  # the rule, and numbers need not be read one by one
            filters = torch.zeros(len(plans), dtype=torch.int64, device=device)
            return Programs(_pad_programs([plans[0]]).to(device), filters, [plans[0].check])
        places = {plan: place for place, plan in enumerate(dict.fromkeys(plans))}
        filters = torch.tensor([places[plan] for plan in plans], device=device)
        return Programs(_pad_programs(list(places)).to(device), filters, [plan.check for plan in places])

    def answer(self, batch: QueryBatch, max_bytes: int | None = None) -> ResultBatch:
        """Answer a batch.

        Args:
            batch: valid queries.
            max_bytes: most bytes of payload that all lists have together; None is no bound. No more texts are built
                than that: the longest lists are `ReplyTooLarge`.
        """
        found = self._lists(batch) if self.set_ranker is None else self.set_ranker.answer(batch, self._lists)
        if not any(batch.fields):
            return found
        slots = self.payload.slots(found.keys)
        if max_bytes is not None:
            left_out = longest(self._text_sizes(batch, found, slots), max_bytes)
            if left_out:
                found = found.instead(dict.fromkeys(left_out, too_large(max_bytes)))
                slots = self.payload.slots(found.keys)
        return replace(found, names=batch.fields, fields=self._fields(batch, found, slots))

    def _text_sizes(self, batch: QueryBatch, found: ResultBatch, slots: NDArray[np.int64]) -> dict[int, int]:
        """At least how many bytes the payload of each list takes, by place."""
        edges = found.offsets.tolist()
        return {
            place: self.payload.text_bytes(names, slots[edges[place] : edges[place + 1]])
            for place, names in enumerate(batch.fields)
            if names
        }

    def _fields(self, batch: QueryBatch, found: ResultBatch, slots: NDArray[np.int64]) -> dict[str, Objects]:
        """The values of each payload field that a query asks for, `[n]`; None in lists that do not."""
        if not len(slots):
            return {name: as_objects([]) for name in chain.from_iterable(batch.fields)}
        if len(set(batch.fields)) == 1:
            values = self.payload.fields(batch.fields[0], slots)
            return {name: as_objects(column) for name, column in values.items()}
        columns = {}
        for name in dict.fromkeys(chain.from_iterable(batch.fields)):
            wanted = np.repeat([name in names for names in batch.fields], np.diff(found.offsets))
            columns[name] = np.full(len(slots), None)
            columns[name][wanted] = as_objects(self.payload.fields([name], slots[wanted])[name])
        return columns

    def _lists(self, batch: QueryBatch) -> ResultBatch:
        """Answer a batch as far as items can be scored one by one, without their fields."""
        groups: dict[Hashable, list[int]] = {}
        settings = zip(batch.steps(), batch.n_probe, batch.refine_all, batch.quotas, strict=True)
        for place, (keys, setting) in enumerate(zip(batch.keys, settings, strict=True)):
            groups.setdefault(setting if keys is None else None, []).append(place)
        if len(groups) == 1:
            return self._lists_of(batch)
        parts = [self._lists_of(batch.take(places)) for places in groups.values()]
        order = np.argsort(np.concatenate([*groups.values()]))
        return ResultBatch.joined(parts, self.catalog.version).take(order.tolist())

    def _lists_of(self, batch: QueryBatch) -> ResultBatch:
        """Answer queries of one group: all are rankings of given items, or searches that are planned alike."""
        if batch.keys[0] is None:
            return self._search_group(batch)
        ranked = [self._rank_given(batch[place], keys) for place, keys in enumerate(batch.keys) if keys is not None]
        return ResultBatch.of(ranked, self.catalog.version)

    @torch.inference_mode()
    def _rank_given(self, query: Query, keys: NDArray[np.int64]) -> SearchReply:
        """Rank given items, found or not: all that there are, by (value desc, key asc); filter and k do not matter."""
        start = perf_counter()
        keys = np.sort(keys)
        slots = self.payload.slots(keys)
        wanted = slots != FREE
        wanted[1:] &= keys[1:] != keys[:-1]  # once each
        keys, slots = keys[wanted], slots[wanted]
        device = self.model.lists.keys.device
        users = torch.tensor(query.vectors, device=device)[None]  # a copy: what was received may be read-only
        places = torch.from_numpy(slots).to(device)[None]
        scored = self.runner.score(users, places, [query.formula])
        best = topk.top_k(scored.values, torch.from_numpy(keys).to(device), len(slots))
        order = best.places[0].cpu().numpy()
        chosen, predictions = slots[order], scored.predictions[0].cpu().numpy().take(order, axis=0)
        explain = {"ranked": len(slots), "batch_ms": round((perf_counter() - start) * 1e3, 3)}
        reply = SearchReply(
            ids=self.payload.ids(chosen),
            keys=keys[order],
            scores=best.scores[0].cpu().numpy(),
            version=self.catalog.version,
            seq=self.applied,
            explain=explain if query.explain else None,
            tasks=TaskScores(self.catalog.tasks, predictions, np.full_like(predictions, -np.inf)),
        )
        features = self._candidate_features(query, chosen)
        return reply if features is None else featured(reply, features)

    def _search_group(self, batch: QueryBatch) -> ResultBatch:
        """Answer searches that share a plan's settings; each gets its own k of the group's largest."""
        start, count = perf_counter(), len(batch)
        best = self.best(
            batch.vectors.reshape(-1, self.catalog.dimension),
            batch.plans(),
            batch.k,
            batch.n_probe[0],
            batch.refine_all[0],
            batch.formula,
            batch.quotas[0],
        )
        slots, scores = best.slots.cpu().numpy(), best.scores.cpu().numpy()
        elapsed = perf_counter() - start
        counts = (slots >= 0).sum(axis=1)
        if not batch.quotas[0]:
            counts = np.minimum(counts, batch.k)
        there = np.arange(slots.shape[1]) < counts[:, None]
        found = slots[there]
        ids = self.payload.ids(found)
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return ResultBatch(
            offsets=offsets,
            keys=self.payload.keys(found),
            scores=scores[there],
            ids=as_objects(ids) if isinstance(ids, list) else None,
            names=((),) * count,
            ranked=np.full(count, best.ranked is not None),
            tasks=None if best.ranked is None else self._task_scores(best.ranked, there),
            features=self._features_of(batch, found, offsets) if any(f is not None for f in batch.features) else None,
            version=self.catalog.version,
            seqs=(self.applied,) * count,
            coverages=(Coverage(),) * count,
            explains=self._explains(batch, best, counts, elapsed) if any(batch.explain) else (None,) * count,
        )

    def _task_scores(self, ranked: Ranked, there: NDArray[np.bool_]) -> TaskScores:
        """Those of the items of a batch that are answers, `[B, k]`."""
        predictions, found = ranked.predictions.cpu().numpy(), ranked.found.cpu().numpy()
        return TaskScores(self.catalog.tasks, predictions[there], found[there])

    def _features_of(
        self, batch: QueryBatch, slots: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[CandidateFeatures | None, ...]:
        edges = offsets.tolist()
        return tuple(
            self._candidate_features(batch[place], slots[edges[place] : edges[place + 1]])
            for place in range(len(batch))
        )

    def _candidate_features(self, query: Query, slots: NDArray[np.int64]) -> CandidateFeatures | None:
        """The features of the items in `slots`, `[n]`, where a query asks for them."""
        if query.features is None:
            return None
        fields = () if self.set_ranker is None else self.valuer.fields(query.formula.variant)
        return read_features(self.model.lists, slots, query.features, self._of_lists.features, fields)

    def _explains(
        self, batch: QueryBatch, best: Best, counts: NDArray[np.int64], elapsed: float
    ) -> tuple[dict[str, Any] | None, ...]:
        return tuple(
            self._explain(batch[row], best, row, int(counts[row]), elapsed) if wanted else None
            for row, wanted in enumerate(batch.explain)
        )

    def _explain(self, query: Query, best: Best, row: int, count: int, elapsed: float) -> dict[str, Any]:
        queries = torch.tensor(query.vectors, device=self.model.lists.planes.device)
        rows = slice(row * len(queries), (row + 1) * len(queries))
        searched = explain_search(self.model, query.plan, queries, query.n_probe, best.found, rows)
        return {
            **searched,
            "short": count < query.k,
            "batch_ms": round(elapsed * 1e3, 3),
            "stages": explain_stages(best.stages, row, searched["scored"], count),
        }


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over an array, or over a copy of one that may not be written, as those are that were received."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _pad_programs(plans: list[FilterPlan]) -> torch.Tensor:
    if len(plans) == 1:
        return _tensor(plans[0].program)[None]
    programs = np.full((len(plans), max(len(plan.program) for plan in plans)), int(Opcode.NOP), dtype=np.int32)
    for row, plan in enumerate(plans):
        programs[row, : len(plan.program)] = plan.program
    return torch.from_numpy(programs)


def require_engine(engine: object, owner: str) -> None:
    """Make sure that a searcher was given an engine.

    Raises:
        ValueError: it is something else, such as the path of a snapshot.
    """
    if not isinstance(engine, Engine):
        raise ValueError(f"engine: expected an Engine, got {shown(engine)}; {owner}.open(path) loads a snapshot")
