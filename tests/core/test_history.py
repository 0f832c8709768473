"""Rates from samples."""

from __future__ import annotations

import pytest

from cfbus.core.history import COARSE_POINTS, History


def run(history: History, start: int, seconds: int, rate: int, count: int = 0) -> int:
    for second in range(start, start + seconds):
        history.sample(float(second), count)
        count += rate
    return count


def test_nothing_is_known_of_nothing() -> None:
    assert History().rate(5.0, 0, 60.0) == 0.0
    assert History().rates() == ()


def test_rates_over_different_times() -> None:
    history = History()
    count = run(history, 0, 870, 10)
    count = run(history, 870, 30, 40, count)
    now = 900.0
    history.sample(now, count)
    assert history.rate(now, count, 10.0) == pytest.approx(40)
    assert history.rate(now, count, 60.0) == pytest.approx(25)
    assert history.rate(now, count, 900.0) == pytest.approx(11)
    assert history.rates()[0] == pytest.approx(10)
    assert history.rates()[-1] == pytest.approx(40)


def test_memory_does_not_grow() -> None:
    history = History()
    run(history, 0, 5000, 1)
    assert len(history.rates()) == COARSE_POINTS


def test_a_count_that_went_down_is_no_negative_rate() -> None:
    history = History()
    for second, count in enumerate([100, 200, 50]):
        history.sample(second * 15.0, count)
    assert min(history.rates()) == 0.0
    assert history.rate(30.0, 50, 60.0) == 0.0
