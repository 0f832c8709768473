"""The end of a run is near the ideal, whoever joins, dies or stands still; and the measure can tell when it is not."""

from __future__ import annotations

import statistics

import pytest
from simulation import tail
from simulation.tail_plan import SPREAD, Cast, Part

from cfbus.core import granting, helping

SEEDS = (0, 1, 2)
ITEMS = 40_000
"""A quarter of an hour. The end is late by some seconds however long a run is: in a longer one that is less of it."""
MAX_LATE = 0.02
MAX_WASTE = 0.02
"""Each item that is in flight at the end may be captioned by a second worker for nothing: some 300 here, which is
0.8 %. About as many are lost with workers that stood still for longer than a lease lasts, whose items others have by
then. The bound leaves room for both."""


def told(figures: list[tail.Figures]) -> str:
    return "\n".join([tail.summary(figures), *(each.line() for each in figures)])


def test_the_end_is_near_the_ideal() -> None:
    figures = [tail.measure(seed, ITEMS) for seed in SEEDS]
    print(told(figures))
    assert statistics.median(each.late for each in figures) <= MAX_LATE, told(figures)
    assert max(each.waste for each in figures) <= MAX_WASTE, told(figures)
    assert all(each.late >= 0 for each in figures), "nothing is sooner than the ideal"
    assert all(each.backups for each in figures)


def test_without_backups_the_end_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helping.Plan, "part_for", lambda *_: None)
    monkeypatch.setattr(tail, "TOO_LATE", 1.0)
    with pytest.raises(AssertionError, match="it does not end"):  # a minute after it should have: 25 % late
        tail.measure(1, 10_000)


def test_with_chunks_that_do_not_look_at_the_end_there_is_more_to_back_up() -> None:
    fair = tail.measure(1, 10_000, calm=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(granting.Granting, "_room_of", lambda *_: (0, 1000))
        greedy = tail.measure(1, 10_000, calm=True)
    assert greedy.late > fair.late
    assert greedy.backups > 10 * fair.backups
    assert greedy.thrown_away > 3 * fair.thrown_away


def test_the_ideal_is_the_sum_of_the_speeds_that_were_there() -> None:
    always = Part("w0", 1.0, 2, 1)
    assert Cast(100, (always,)).ideal == 100
    assert Cast(100, (always, Part("w1", 1.0, 2, 1, joins=50.0))).ideal == 75
    assert Cast(100, (always, Part("w1", 1.0, 2, 1, leaves=20.0, how="silent"))).ideal == 80
    # From 10 to 40 it stands still, and it leaves before that is over.
    assert Cast(100, (always, Part("w1", 1.0, 2, 1, leaves=30.0, stalls=10.0, stalled=30.0))).ideal == 90
    assert Cast(10, (Part("w0", 1.0, 2, 1, joins=5.0, stalls=0.0, stalled=7.0),)).ideal == 17
    speeds = [part.speed for part in Cast.of(1, 1).parts]
    assert max(speeds) / min(speeds) == pytest.approx(SPREAD)
