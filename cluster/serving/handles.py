"""Handles to the applications of a service: one deployment each, called from the router."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

STATUS_S = 2.0
"""A part of a status reply that does not come by then is told as missing: whoever asks wants to see the other parts."""


class ApplicationHandle:
    """Calls the replicas of an application's deployment; a cancelled call is cancelled in the replica too.

    Args:
        deployment: name of the deployment.
        application: name of its application.
    """

    def __init__(self, deployment: str, application: str) -> None:
        self._deployment = deployment
        self._application = application
        self._calls: dict[str, Any] = {}

    async def call(self, method: str, *arguments: Any, by_reference: bool = False) -> Any:
        """Call a replica.

        Args:
            method: what to call.
            arguments: its arguments.
            by_reference: send arguments and reply through the object store: it is faster where they are long, and
                Serve's gRPC bounds a message.
        """
        if method not in self._calls:  # made here, since a handle belongs to the event loop that it is made on
            self._calls[method] = serve.get_deployment_handle(self._deployment, self._application).options(
                method_name=method, request_serialization="pickle", response_serialization="pickle"
            )
        call = self._calls[method]
        if by_reference:
            call = call.options(_by_reference=True)
        response = call.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def describe(self) -> dict[str, Any] | None:
        """What one replica says of itself; None if it does not in time."""
        try:
            told: dict[str, Any] = await asyncio.wait_for(self.call("describe"), STATUS_S)
        except Exception:  # one that is down has many ways to fail; the applications' states say which
            return None
        return told
