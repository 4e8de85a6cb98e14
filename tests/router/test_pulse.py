"""Time in the event loop's backlog is seen, without a stall of the machine's in the way of the test."""

from __future__ import annotations

import asyncio

import pytest

from silverray.router.batch.pulse import BEAT_S, Pulse

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_an_idle_loop_adds_nothing() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    assert pulse.arrived() == 100.0
    clock.now += BEAT_S / 2
    assert pulse.arrived() == clock.now


async def test_an_overdue_beat_dates_requests_back() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.arrived()
    clock.now += 3.0  # the loop was busy: the beat has not come yet
    assert pulse.arrived() == pytest.approx(100.0 + BEAT_S)


async def test_what_the_last_beat_has_seen_counts_until_the_next() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.arrived()
    clock.now += 3.0
    pulse._beat()
    clock.now += BEAT_S / 2
    assert pulse.lag_s == pytest.approx(3.0 - BEAT_S)
    clock.now += BEAT_S / 2
    pulse._beat()
    assert pulse.lag_s == pytest.approx(0.0)


async def test_it_stops_when_nothing_comes() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.arrived()
    while pulse._due is not None:
        assert clock.now < 103.0
        clock.now += BEAT_S
        pulse._beat()
    clock.now += 60.0
    assert pulse.lag_s == 0.0
    assert pulse.arrived() == clock.now


async def test_the_loop_beats_by_itself() -> None:
    pulse = Pulse()
    pulse.arrived()
    due = pulse._due
    for _ in range(200):
        await asyncio.sleep(BEAT_S / 4)
        if pulse._due != due:
            return
    pytest.fail("no beat came")
