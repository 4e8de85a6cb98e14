from __future__ import annotations

from silverray.router.batch.concurrency import Concurrency


def made(start: int = 100) -> Concurrency:
    return Concurrency(0.5, least=8, start=start, most=120)


def test_it_grows_by_quick_answers_only_while_it_is_met() -> None:
    limit = made()
    limit.learn(0.0, 0.4, full=False)
    assert limit.limit == 100
    limit.learn(0.0, 0.5, full=True)
    assert limit.limit == 101
    for _ in range(100):
        limit.learn(0.0, 0.1, full=True)
    assert limit.limit == 120


def test_a_slow_answer_cuts_it_once_in_the_time_that_it_took() -> None:
    limit = made()
    limit.learn(0.0, 0.51, full=True)
    assert limit.limit == 90
    for began in (0.1, 0.4, 0.5):  # they began before the cut, and say nothing new
        limit.learn(began, began + 1.0, full=True)
    assert limit.limit == 90
    limit.learn(1.0, 1.51, full=False)
    assert limit.limit == 81
    limit.learn(2.0, 9.0, full=False)
    assert limit.limit == 40, "never more than half at once"


def test_it_never_leaves_its_bounds() -> None:
    limit = made()
    for turn in range(100):
        limit.learn(turn, turn + 0.6, full=True)
    assert limit.limit == 8
    assert Concurrency(1.0, least=8, start=256, most=4).limit == 4


def test_it_finds_what_a_server_can_do() -> None:
    """A server that answers 200 a second: with n at a time each takes n / 200 s, so 100 at a time take the target."""
    limit = Concurrency(0.5, least=8, start=1_000, most=1_000)
    under_way = [0.0] * limit.limit  # when each began
    for answer in range(6_000):
        now = answer / 200
        limit.learn(under_way.pop(0), now, full=True)
        under_way += [now] * (limit.limit - len(under_way))
    assert 50 <= limit.limit <= 110
