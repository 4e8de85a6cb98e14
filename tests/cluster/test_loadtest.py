import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from silverray.cluster.loadtest.lateness import summarise
from silverray.cluster.loadtest.loadtest import SATURATED, LoadPlan, Outcome, Progress, read_queries, run_load
from silverray.cluster.loadtest.report import LoadReport
from silverray.cluster.loadtest.truth import QueryFileError, Truth, read_truths

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def result(scores: list[float], degraded: bool = False) -> dict[str, Any]:
    return {
        "items": [{"id": place, "score": score} for place, score in enumerate(scores)],
        "coverage": {"degraded": degraded},
    }


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/search", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def load(
    handler: Handler, bodies: list[bytes], progress: Progress | None = None, **options: Any
) -> tuple[LoadPlan, list[Outcome]]:
    async def run() -> tuple[LoadPlan, list[Outcome]]:
        async with service(handler) as url:
            plan = LoadPlan(url=url, bodies=bodies, **options)
            return plan, await run_load(plan, progress)

    return asyncio.run(run())


def test_departures_are_a_seeded_poisson_process() -> None:
    plan = LoadPlan(url="", bodies=[b"{}"], rate=1000, duration_s=20, seed=3)
    times = plan.departures()
    assert np.array_equal(times, plan.departures())
    assert times[0] > 0 and times[-1] < 20 and (np.diff(times) > 0).all()
    assert abs(len(times) - 20_000) < 5 * 20_000**0.5
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)


def test_latency_counts_from_the_intended_time_when_the_server_stalls() -> None:
    gate: dict[str, float] = {}

    async def stall(request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        gate.setdefault("open_at", loop.time() + 0.6)
        await asyncio.sleep(max(0.0, gate["open_at"] - loop.time()))
        return web.json_response(result([1.0]))

    _, outcomes = load(stall, [b"{}"], rate=100, duration_s=0.5)
    first = outcomes[0].sent_s
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.sent_s + outcome.latency_s >= first + 0.59
    assert outcomes[0].latency_s > outcomes[-1].latency_s


def test_errors_are_counted_by_code() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        match body["case"]:
            case "ok":
                return web.json_response(result([1.0]))
            case "late":
                return web.json_response({"error": {"code": "deadline_exceeded"}}, status=504)
            case "page":
                return web.Response(text="<html>", status=503)
            case "odd":
                return web.Response(text="[]")
            case _:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()

    cases = ["ok", "late", "page", "odd", "cut"]
    plan, outcomes = load(answer, [json.dumps({"case": c}).encode() for c in cases], rate=200, duration_s=0.5)
    report = LoadReport.of(plan, outcomes)
    names = ["", "deadline_exceeded", "http_503", "bad_reply", "unreachable"]
    expected = {name: len(outcomes[place::5]) for place, name in enumerate(names)}
    assert report.replies == expected.pop("")
    assert report.errors == expected
    assert report.requests == len(outcomes) == len(plan.departures())
    assert report.degraded_share == 0.0


def test_what_is_over_the_bound_is_an_error_and_never_waits() -> None:
    seen, all_sent = 0, asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        await all_sent.wait()
        return web.json_response(result([1.0]))

    def watch(_: float, sent: int, answered: int) -> None:
        if sent - answered == 5 and sent == total:
            all_sent.set()

    total = len(LoadPlan(url="", bodies=[b"{}"], rate=100, duration_s=0.5).departures())
    plan, outcomes = load(slow, [b"{}"], watch, rate=100, duration_s=0.5, max_in_flight=5)
    report = LoadReport.of(plan, outcomes)
    assert report.replies == seen == 5
    assert report.errors == {SATURATED: len(outcomes) - 5}


def test_degraded_share_and_recall() -> None:
    async def answer(request: web.Request) -> web.Response:
        good = (await request.json())["good"]
        return web.json_response(result([0.9, 0.8] if good else [0.9, 0.5], degraded=not good))

    truths = [Truth(scores=(0.9, 0.8), k=2)] * 2
    bodies = [b'{"good": true, "k": 2}', b'{"good": false, "k": 2}']
    plan, outcomes = load(answer, bodies, rate=200, duration_s=0.3, truths=truths)
    report = LoadReport.of(plan, outcomes)
    bad = len(outcomes[1::2]) / len(outcomes)
    assert report.degraded_share == pytest.approx(bad)
    assert report.recall == pytest.approx(1 - bad / 2)


@pytest.mark.parametrize(
    ("true", "k", "scores", "recall"),
    [
        ((0.9, 0.8), 2, [0.9, 0.8], 1.0),
        ((0.9, 0.8, 0.8), 2, [0.9, 0.8 - 5e-6], 1.0),
        ((0.9, 0.8), 2, [0.9, 0.8 - 2e-5], 0.5),
        ((0.9,), 5, [0.9], 1.0),
        ((0.8, 0.8), 1, [0.8, 0.8], 1.0),
        ((), 5, [], 1.0),
        ((0.9, 0.8), 2, [], 0.0),
    ],
)
def test_recall_is_safe_for_ties(true: tuple[float, ...], k: int, scores: list[float], recall: float) -> None:
    assert Truth(true, k).recall(scores) == recall


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    plan = LoadPlan(url="http://x", bodies=[b"{}"], rate=100, duration_s=1)
    outcomes = [Outcome(n / 100, (n + 1) / 1e3, degraded=n == 0) for n in range(99)] + [Outcome(0.99, 0.5, "oops")]
    report = LoadReport.of(plan, outcomes, summarise({0.0: 999, 12.5: 1}))
    report.write(tmp_path / "r", outcomes)
    document = json.loads((tmp_path / "r" / "report.json").read_text())
    assert document["latency_ms"] == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.0, "max": 99.0}
    assert document["errors"] == {"oops": 1}
    assert document["achieved_rate"] == pytest.approx(99 / 1.079, abs=0.01)
    assert document["lateness"] == {"count": 1000, "p99_9_ms": 0.0, "max_ms": 12.5}
    assert (tmp_path / "r" / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_lateness_quantiles() -> None:
    assert summarise({}).count == 0
    assert summarise({0.0: 998, 3.0: 1, 7.0: 1}).p99_9_ms == 3.0
    assert summarise({0.0: 10, 50.0: 10}).p99_9_ms == 50.0


@pytest.mark.parametrize(
    ("queries", "truth", "message"),
    [
        ("", None, "holds no queries"),
        ("{}\n[1]", None, "line 2: expected a search body"),
        ("{", None, "line 1: not JSON"),
        ("{}", "", "expected 1 lines"),
        ("{}", '{"ids": [1]}', "line 1: expected"),
        ("{}", '{"ids": [1, 2], "scores": [0.1, 0.2]}', "best first"),
        ('{"queries": [{}]}', '{"ids": [], "scores": []}', "one query a body"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, queries: str, truth: str | None, message: str) -> None:
    file, other = tmp_path / "q.jsonl", tmp_path / "t.jsonl"
    file.write_text(queries)
    other.write_text(truth or "")
    with pytest.raises(QueryFileError, match=message):
        read_truths(other, read_queries(file))
