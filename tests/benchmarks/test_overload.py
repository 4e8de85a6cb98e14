"""How `silverray bench overload` counts; nothing here starts Ray."""

from __future__ import annotations

import numpy as np
import orjson

from silverray.benchmarks.overload import A_BODY, K, _a_second, _bodies, _counted
from silverray.cluster.commands.bench import BENCHMARKS
from silverray.cluster.loadtest.loadtest import Outcome


def test_answers_count_in_the_second_in_which_they_came() -> None:
    full = [Outcome(0.1, 0.2), Outcome(0.9, 0.3), Outcome(1.1, 0.1), Outcome(1.9, 0.5)]
    assert _a_second(full, 2.0).tolist() == [1, 2]


def test_errors_are_counted_by_code() -> None:
    outcomes = [Outcome(0, 1, "overloaded"), Outcome(0, 1), Outcome(0, 1, "overloaded"), Outcome(0, 1, "unreachable")]
    assert _counted(outcomes) == "2 overloaded, 1 unreachable"
    assert _counted(outcomes[1:2]) == "none"


def test_bodies_hold_all_queries_by_eights() -> None:
    bodies = [orjson.loads(body) for body in _bodies(np.eye(20, 4, dtype=np.float32))]
    assert [len(body["queries"]) for body in bodies] == [A_BODY, A_BODY]
    assert {query["k"] for body in bodies for query in body["queries"]} == {K}


def test_it_is_registered() -> None:
    assert "overload" in BENCHMARKS
