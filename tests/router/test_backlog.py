"""Who is served next and who is given up, by times that are given."""

from __future__ import annotations

from silverray.router.batch.backlog import SHORT, Backlog


def drain(backlog: Backlog[str], now: float) -> list[str]:
    return [backlog.take(now) for _ in range(len(backlog))]


def filled(*since: float, patience_s: float = 1.0) -> Backlog[str]:
    backlog: Backlog[str] = Backlog(patience_s)
    for time in since:
        backlog.put(f"at {time}", time)
    return backlog


def test_a_short_burst_is_served_in_order() -> None:
    assert drain(filled(0.0, 0.01, 0.02), 0.09) == ["at 0.0", "at 0.01", "at 0.02"]


def test_the_newest_is_served_first_once_the_oldest_has_waited_long() -> None:
    backlog = filled(0.0, 0.15, 0.19)
    assert backlog.take(0.2) == "at 0.19"
    assert backlog.take(0.2) == "at 0.15"
    backlog.put("at 0.2", 0.2)
    assert drain(backlog, 0.21) == ["at 0.2", "at 0.0"]


def test_who_has_waited_too_long_is_given_up_oldest_first() -> None:
    backlog = filled(0.0, 0.3, 0.6)
    assert backlog.give_up(0.99) == []
    assert backlog.give_up(1.0) == ["at 0.0"]
    assert len(backlog) == 2


def test_where_a_backlog_stands_patience_is_short() -> None:
    backlog = filled(0.0)
    for step in range(1, 10):  # it never empties for more than a patience
        now = 0.12 * step
        backlog.put(f"at {now}", now)
        backlog.take(now)
    assert backlog.patience_s(0.99) == 1.0 and backlog.patience_s(1.08) == SHORT
    assert backlog.give_up(1.08) == ["at 0.0"]
    # Empty once, it has its patience again.
    backlog.put("new", 1.1)
    assert backlog.patience_s(1.2) == 1.0 and backlog.give_up(2.09) == []


def test_it_says_when_to_look_again() -> None:
    backlog = filled(0.0, 0.5)
    assert backlog.next_s(0.25) == 0.75
    assert backlog.next_s(3.0) == 0.0


def test_who_leaves_is_forgotten() -> None:
    backlog = filled(0.0, 0.5)
    backlog.remove("at 0.0")
    backlog.remove("at 9")
    assert drain(backlog, 0.5) == ["at 0.5"]
    backlog.put("last", 0.6)
    backlog.remove("last")
    assert len(backlog) == 0 and backlog.patience_s(9.0) == 1.0
