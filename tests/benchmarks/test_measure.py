"""Interleaved timing, with a clock that only the contenders move."""

import pytest

from silverray.benchmarks.common.measure import Timing, interleave, ratio
from silverray.benchmarks.scan.tuning import Tuned, smallest_setting


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def contender(self, name: str, *seconds: float) -> object:
        durations = iter(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += next(durations)

        return call

    def __call__(self) -> float:
        return self.now


def test_contenders_take_turns_and_warm_up_is_not_counted() -> None:
    clock = FakeClock()
    contenders = {"a": clock.contender("a", 99, 1, 2, 3), "b": clock.contender("b", 99, 2, 8, 3)}
    timings = interleave(contenders, rounds=3, clock=clock)  # type: ignore[arg-type]
    assert clock.calls == ["a", "b"] * 4
    assert timings["a"].times == (1, 2, 3)
    assert timings["a"].p50_s == 2
    assert timings["a"].p20_s == pytest.approx(1.4)
    assert timings["a"].p80_s == pytest.approx(2.6)
    assert timings["b"].times == (2, 8, 3)
    # Round by round: 2, 4 and 1 times as long.
    assert ratio(timings["b"], timings["a"]) == 2
    assert ratio(timings["a"], timings["b"]) == 0.5


def test_rates_and_times_as_cells() -> None:
    timing = Timing.of([0.5, 1.0, 2.0])
    assert timing.rates(10, "qps")["qps_p50"] == 10
    assert timing.rates(10)["qps_p20"] < 10 < timing.rates(10)["qps_p80"]
    assert timing.seconds(1e-3, "ms", 10) == pytest.approx({"ms_p20": 70, "ms_p50": 100, "ms_p80": 160})


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one each"):
        interleave({}, rounds=1)
    with pytest.raises(ValueError, match="the same rounds, got 1 and 2"):
        ratio(Timing.of([1]), Timing.of([1, 2]))


@pytest.mark.parametrize("needed", [1, 2, 7, 8, 31, 64])
def test_the_smallest_setting_is_found_exactly_where_settings_are_small(needed: int) -> None:
    tuned = smallest_setting(lambda n: 0.96 if n >= needed else n / 100, 0.95, 1, 128)
    assert tuned == Tuned(needed, 0.96, True)


def test_large_settings_are_found_to_one_part_in_32() -> None:
    asked: list[int] = []

    def recall_at(setting: int) -> float:
        asked.append(setting)
        return setting / 1_000

    tuned = smallest_setting(recall_at, 0.95, 100, 4_096)
    assert tuned.reached
    assert 950 <= tuned.setting <= 950 * 33 / 32
    assert len(asked) < 12


def test_a_target_out_of_reach_is_told() -> None:
    assert smallest_setting(lambda n: 0.5, 0.95, 10, 50) == Tuned(50, 0.5, False)
