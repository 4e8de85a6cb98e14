from __future__ import annotations

import numpy as np
import pytest

from silverray.router import metrics
from silverray.router.metrics import Histogram, RouterMetrics


def test_quantiles_are_within_a_bucket_of_the_true_ones() -> None:
    seconds = np.random.default_rng(1).lognormal(-5, 1.5, 20_000)
    histogram = Histogram()
    for value in seconds:
        histogram.record(float(value))
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert histogram.quantile(q) == pytest.approx(float(np.quantile(seconds, q)), rel=0.06)
    assert histogram.quantile(1.0) == seconds.max()
    assert histogram.to_document()["max"] == round(float(seconds.max()) * 1e3, 3)


def test_on_time_is_zero_and_extremes_have_a_bucket() -> None:
    histogram = Histogram()
    assert histogram.to_document() == {
        "count": 0,
        "p50": 0.0,
        "p90": 0.0,
        "p99": 0.0,
        "p99_9": 0.0,
        "max": 0.0,
        "buckets": [],
    }
    for value in (0.0, -1.0, 1e9):
        histogram.record(value)
    assert (histogram.count, histogram.quantile(0.5)) == (3, 0.0)
    assert histogram.to_document()["buckets"][0] == [0.0, 2]


def test_no_two_buckets_share_an_edge() -> None:
    histogram = Histogram()
    for step in range(399):
        histogram.record(1.001e-5 * 1.05**step)
    edges = [edge for edge, _ in histogram.to_document()["buckets"]]
    assert len(edges) == len(set(edges)) == 399
    assert edges == sorted(edges)


def test_trimmed_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_TRIMMED_NAMES", 1)
    counted = RouterMetrics()
    for names in (["country"], ["country"], ["a"], ["b"]):
        counted.trimmed(names)
    assert counted.to_document()["trimmed_features"] == {"country": 2, metrics.OTHER_NAMES: 2}


def test_long_trimmed_names_are_cut() -> None:
    counted = metrics.RouterMetrics()
    counted.trimmed(["x" * 1_000_000, "x" * 101, "x"])
    assert counted.to_document()["trimmed_features"] == {"x" * 100: 2, "x": 1}
