"""Limits and defaults of a router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from silverray.router.callers import Callers
from silverray.shard.api import MAX_FEATURES_K, MAX_STRENGTH
from silverray.shard.engine.rerank import WINDOW
from silverray.shard.live.sizes import ItemSizes
from silverray.shard.model.diversity import MAX_WINDOW

Strength = Annotated[float, Field(ge=0, le=MAX_STRENGTH, allow_inf_nan=False)]


class DiversitySettings(BaseModel):
    """How lists are diversified where a search asks for it; see `silverray.shard.model.diversity.Diversity`.

    Attributes:
        strength: where the search names none, in units of the scores.
        window: consecutive items that must differ.
        oversample: candidates for each item wanted, among which it is chosen.
        spacing: weight by category: how much an item loses that follows at once on one with the same value, in
            units of the strength. The loss falls to none after a window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    strength: Strength = 0.3
    window: Annotated[int, Field(ge=2, le=MAX_WINDOW)] = 10
    oversample: Annotated[int, Field(ge=1)] = 4
    spacing: dict[str, Strength] = {}


class RerankSettings(BaseModel):
    """How lists are re-ranked by a set-wise scorer, where the snapshot has one.

    Attributes:
        window: items that are judged together, the best by what shards rank by; a list of more is judged whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    window: Annotated[int, Field(ge=1, le=MAX_FEATURES_K)] = WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What a router allows and how it batches.

    Attributes:
        deadline_s: time that an HTTP request has when its body names none.
        max_deadline_s: longest time that a request may have; also that of requests which would wait for ever.
        min_coverage: least fraction of the items that an HTTP answer must rest on when its body names none.
        slots: batches in flight at a time; a batch takes what is queued when a slot frees.
        max_batch: most requests in a batch.
        max_batch_items: most items that a batch may ask for: its requests times the step of their k.
        max_pending: most requests that may wait or be in flight; more are refused at once, before they are read.
        max_waiting: most requests that may wait for a write (`min_seq`); they do not count as pending meanwhile.
        max_queries: most queries in an HTTP body.
        max_body_bytes: longest HTTP body.
        max_reply_bytes: longest HTTP reply.
        sizes: how large what is written may be.
        callers: who may ask over HTTP.
        max_waiting_bytes: most bytes of HTTP bodies that are there and not answered, of searches and of writes each.
        body_timeout_s: time that a client has to send an HTTP body.
        diversity: how lists are diversified.
        rerank: how lists are re-ranked.
        quotas: by task, places of every list that are kept for what the task predicts best.
    """

    deadline_s: float = 0.1
    max_deadline_s: float = 60.0
    min_coverage: float = 0.0
    slots: int = 2
    max_batch: int = 64
    max_batch_items: int = 64_000
    max_pending: int = 1_024
    max_waiting: int = 1_024
    max_queries: int = 256
    max_body_bytes: int = 16 << 20
    max_reply_bytes: int = 64 << 20
    sizes: ItemSizes = field(default_factory=ItemSizes)
    callers: Callers = field(default_factory=Callers)
    max_waiting_bytes: int = 128 << 20
    body_timeout_s: float = 10.0
    diversity: DiversitySettings = field(default_factory=DiversitySettings)
    rerank: RerankSettings = field(default_factory=RerankSettings)
    quotas: dict[str, int] = field(default_factory=dict)
