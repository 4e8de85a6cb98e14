"""Three times what shards can do, in virtual time: the same on any machine, however busy."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest
from starlette.types import ASGIApp
from virtual_time import VirtualLoop

from silverray.router.batch.fanout import Backend
from silverray.router.batch.gate import Gate
from silverray.router.batch.pulse import Pulse
from silverray.router.http.app import create_app
from silverray.router.router import Router
from silverray.router.settings import RouterSettings

from .conftest import Validating, make_catalog, make_shards

BATCH, TAKES_S, DEADLINE_S = 4, 0.02, 0.6
SUSTAINABLE = BATCH / TAKES_S
BODY = orjson.dumps({"vector": [1, 0, 0, 2.5, 0, -1, 0, 0]})
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/search",
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
}


class Load:
    """Bodies that leave at a fixed rate, and what became of those that left in each second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds: dict[int, Counter[int]] = {}
        self._latest_s = 0.0

    async def run(self, rate: float, seconds: int) -> tuple[list[Counter[int]], float]:
        """Counts by status for each second, and the longest that anybody waited."""
        self._seconds, self._latest_s = {second: Counter() for second in range(seconds)}, 0.0
        begin = time.monotonic()
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(begin + number / rate - time.monotonic())
            tasks.append(asyncio.create_task(self._ask(int(number / rate))))
        await asyncio.gather(*tasks)
        return list(self._seconds.values()), self._latest_s

    async def _ask(self, second: int) -> None:
        began = time.monotonic()
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": BODY}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self._app(dict(SCOPE), receive, send)
        self._seconds[second][sent[0]["status"]] += 1
        self._latest_s = max(self._latest_s, time.monotonic() - began)


def served() -> tuple[Router, Load]:
    shards, _ = make_shards()
    for shard in shards:
        shard.delay_s = TAKES_S
    settings = RouterSettings(deadline_s=DEADLINE_S, slots=1, max_batch=BATCH)
    admission: Any = Validating()
    backends = [Backend(f"shard-{i}", shard, len(shard.keys)) for i, shard in enumerate(shards)]
    router = Router(make_catalog(400), backends, settings=settings, validator=admission)
    router.gate = Gate(settings, time.monotonic)
    return router, Load(create_app(router))


def test_goodput_stays_at_three_times_what_shards_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(time, "monotonic", loop.time)
        monkeypatch.setattr(Pulse, "arrived", lambda _: loop.time())
        router, load = served()
        before, _ = await load.run(0.5 * SUSTAINABLE, 2)
        assert [set(codes) for codes in before] == [{200}, {200}]
        over, latest_s = await load.run(3 * SUSTAINABLE, 5)
        assert sum(codes[200] for codes in over) >= 0.9 * 5 * SUSTAINABLE
        for codes in over:  # by when they left, so that a second may lend to another
            assert codes[200] >= 0.7 * SUSTAINABLE, over
            assert set(codes) <= {200, 503}, "nobody is let in who is then answered too late"
        assert latest_s <= DEADLINE_S
        sent = sum(map(len, load_batches(router)))
        good = sum(codes[200] for codes in before + over)
        assert sent == good, "the shards did nothing in vain"
        after, _ = await load.run(0.5 * SUSTAINABLE, 2)
        assert [set(codes) for codes in after] == [{200}, {200}]
        await router.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())


def load_batches(router: Router) -> list[Any]:
    """The batches that the first shard was sent."""
    shard: Any = router._fanout._lanes[0].backend.shard
    batches: list[Any] = shard.batches
    return batches
