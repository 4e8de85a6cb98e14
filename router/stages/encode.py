"""User features to query vectors, a batch at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silverray.router.batch.ticket import Ticket
from silverray.router.errors import at
from silverray.shard.api import Encoder, EncoderUnavailable, InvalidRequest, SearchError, SearchRequest

if TYPE_CHECKING:
    from silverray.router.metrics import RouterMetrics
    from silverray.shard.engine.validation import Admission
    from silverray.shard.schema.user_features import UserFeatures

_logger = logging.getLogger(__name__)


class UserEncoding:
    """Gives tickets with user features their query vectors.

    Tickets that fail are answered here; they keep their own timer, so a slow encoder cannot hold one past its
    deadline.

    Args:
        encoder: what turns users into vectors.
        admission: checks and normalises the vectors like those of any request.
        features: what the encoder takes, as the model's signature says; None does not know.
        metrics: counts features that nothing reads.
    """

    def __init__(
        self, encoder: Encoder, admission: Admission, features: UserFeatures | None, metrics: RouterMetrics
    ) -> None:
        self._encoder = encoder
        self._admission = admission
        self._features = features
        self._metrics = metrics

    def admit(self, request: SearchRequest, where: str) -> SearchRequest:
        """Check an admitted request's user by the model's signature, and leave out what its tower does not take.

        Args:
            request: with user features; formulas have read theirs.
            where: the path of the request in its body.

        Raises:
            InvalidRequest: a required feature is missing or a feature has the wrong type.
        """
        user, features = request.user or {}, self._features
        if features is None:
            return request
        features.check(user, f"{where}.user" if where else "user")
        self._metrics.trimmed(user.keys() - self._admission.valuer.user_features - set(features.names))
        return replace(request, user={name: user[name] for name in features.names if name in user})

    async def encode(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Encode a batch in one call; returns the tickets that have vectors now.

        When the encoder refuses a batch because of one of its users, each is asked for alone: a client's
        mistake must not fail the requests that happened to share its batch.
        """
        users = [ticket.request.user or {} for ticket in tickets]
        left = max(ticket.deadline for ticket in tickets) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                vectors = await self._vectors(users)
        except TimeoutError:
            return []
        for ticket, vector in zip(tickets, vectors, strict=True):
            self._give(ticket, vector)
        return [ticket for ticket in tickets if not ticket.done]

    async def _vectors(self, users: Sequence[Mapping[str, Any]]) -> list[NDArray[np.float32] | SearchError]:
        try:
            return list(_checked(await self._encoder.encode(users), len(users)))
        except InvalidRequest as error:
            if len(users) > 1:
                alone = await asyncio.gather(*(self._vectors([user]) for user in users))
                return [vectors[0] for vectors in alone]
            return [_of_the_request(error)]
        except SearchError as error:
            return [error] * len(users)
        except Exception:
            _logger.exception("the encoder failed on %d users", len(users))
            return [EncoderUnavailable("the user's vectors could not be computed")] * len(users)

    def _give(self, ticket: Ticket, vector: NDArray[np.float32] | SearchError) -> None:
        if isinstance(vector, SearchError):
            ticket.resolve(at(ticket.where, vector))
            return
        try:
            ticket.request = self._admission.admit(replace(ticket.request, user=None, vectors=vector))
        except SearchError as error:
            _logger.error("the encoder gave an unusable vector: %s", error)
            ticket.resolve(at(ticket.where, EncoderUnavailable("the user's vectors are unusable")))


def _checked(vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    if vectors.ndim != 3 or len(vectors) != n:
        raise RuntimeError(f"vectors: expected [{n}, T, D], got {list(vectors.shape)}")
    return vectors


def _of_the_request(error: InvalidRequest) -> InvalidRequest:
    """Say `user.NAME` where the encoder, which sees a list of one, says `user[0].NAME`."""
    where = (error.where or "user").replace("user[0]", "user", 1)
    return InvalidRequest(error.message, where)
