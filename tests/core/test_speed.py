"""How fast a worker is taken to be."""

from __future__ import annotations

from cfbus.core.speed import RATE_WINDOW_SECONDS, Speed


def after(counts: list[int]) -> Speed:
    """A speed that has seen windows with these counts."""
    speed = Speed()
    speed.measure(0.0)
    for number, count in enumerate(counts, 1):
        speed.count += count
        speed.measure(number * RATE_WINDOW_SECONDS)
    return speed


def test_it_is_not_known_before_the_first_window_has_ended() -> None:
    speed = Speed()
    speed.count += 5  # before anything was measured: nobody knows since when
    speed.measure(100.0)
    speed.count += 7
    speed.measure(100.0 + RATE_WINDOW_SECONDS / 2)
    assert speed.rate == 0.0
    speed.measure(100.0 + RATE_WINDOW_SECONDS)
    assert speed.rate == 7 / RATE_WINDOW_SECONDS


def test_one_lucky_window_changes_little_and_a_slow_one_counts_at_once() -> None:
    assert after([100, 100, 100, 900]).rate == 100 / RATE_WINDOW_SECONDS
    assert after([100, 100, 100, 20]).rate == 20 / RATE_WINDOW_SECONDS


def test_what_was_measured_before_a_change_says_nothing_after_it() -> None:
    speed = after([100, 100, 100])
    speed.forget()
    speed.count += 900
    speed.measure(4 * RATE_WINDOW_SECONDS)
    assert speed.rate == 900 / RATE_WINDOW_SECONDS
