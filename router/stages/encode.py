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

from silverray.router.batch.ticket import EncodingTicket, SearchTicket
from silverray.router.errors import at
from silverray.shard.api import Encoder, EncoderUnavailable, InvalidRequest, SearchError
from silverray.shard.query import UserQuery

if TYPE_CHECKING:
    from silverray.router.metrics import RouterMetrics
    from silverray.shard.engine.validation import Validator
    from silverray.shard.schema.user_features import UserFeatures

_logger = logging.getLogger(__name__)


class UserEncoding:
    """Gives tickets with user features their query vectors.

    Tickets that fail are answered here; they keep their own timer, so a slow encoder cannot hold one past its
    deadline.

    Args:
        encoder: what turns users into vectors.
        validator: checks and normalises the vectors like those of any request.
        features: what the encoder takes, as the model's signature says; None does not know.
        metrics: counts features that nothing reads.
    """

    def __init__(
        self, encoder: Encoder, validator: Validator, features: UserFeatures | None, metrics: RouterMetrics
    ) -> None:
        self._encoder = encoder
        self._validator = validator
        self._features = features
        self._metrics = metrics

    def trim(self, query: UserQuery, where: str) -> UserQuery:
        """Check a query's user by the model's signature, and leave out what its tower does not take.

        Args:
            query: formulas have read theirs.
            where: the path of the query in its body.

        Raises:
            InvalidRequest: a required feature is missing or a feature has the wrong type.
        """
        user, features = query.user, self._features
        if features is None:
            return query
        features.check(user, f"{where}.user" if where else "user")
        self._metrics.trimmed(user.keys() - self._validator.valuer.user_features - set(features.names))
        return replace(query, user={name: user[name] for name in features.names if name in user})

    async def encode(self, tickets: Sequence[EncodingTicket]) -> list[SearchTicket]:
        """Encode a batch in one call; returns the tickets of those that have vectors now.

        When the encoder refuses a batch because of one of its users, each is asked for alone: a client's
        mistake must not fail the requests that happened to share its batch.
        """
        users = [ticket.query.user for ticket in tickets]
        left = max(ticket.deadline for ticket in tickets) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                vectors = await self._vectors(users)
        except TimeoutError:
            return []
        given = map(self._give, tickets, vectors)
        return [ticket for ticket in given if ticket is not None and not ticket.done]

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

    def _give(self, ticket: EncodingTicket, vectors: NDArray[np.float32] | SearchError) -> SearchTicket | None:
        """The ticket with its vectors; None where there are none, which answers it."""
        if isinstance(vectors, SearchError):
            ticket.resolve(at(ticket.where, vectors))
            return None
        try:
            return ticket.encoded(self._validator.check_vectors(vectors))
        except SearchError as error:
            _logger.error("the encoder gave an unusable vector: %s", error)
            ticket.resolve(at(ticket.where, EncoderUnavailable("the user's vectors are unusable")))
            return None


def _checked(vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    if vectors.ndim != 3 or len(vectors) != n:
        raise RuntimeError(f"vectors: expected [{n}, T, D], got {list(vectors.shape)}")
    return vectors


def _of_the_request(error: InvalidRequest) -> InvalidRequest:
    """Say `user.NAME` where the encoder, which sees a list of one, says `user[0].NAME`."""
    where = (error.where or "user").replace("user[0]", "user", 1)
    return InvalidRequest(error.message, where)
