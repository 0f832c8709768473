"""Budgets, and the steps from a refusal to a suspension."""

from __future__ import annotations

from cfbus.core.limits import (
    CALM_SECONDS,
    CUTS_BEFORE_SUSPENSION,
    CUTS_SECONDS,
    REFUSALS_BEFORE_CUT,
    TELL_SECONDS,
    Budget,
    Limits,
    Over,
    Ruling,
    Traffic,
)

KEY = b"k"


def test_who_stays_within_the_limit_is_never_refused() -> None:
    traffic = Traffic(Limits(messages_per_second=10, bytes_per_second=1000))
    assert {traffic.judge(KEY, 100, number / 10) for number in range(1000)} == {(Ruling.TAKE, None)}


def test_a_burst_passes_and_what_comes_after_it_does_not() -> None:
    budget = Budget(10, 2.0, 0.0)
    assert [budget.take(1, 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert budget.take(1, 0.1)
    assert not budget.take(1, 0.1)


def test_something_larger_than_any_burst_passes_when_nothing_is_owed() -> None:
    budget = Budget(10, 1.0, 0.0)
    assert budget.take(100, 0.0)
    assert not budget.take(1, 9.0)
    assert budget.take(1, 9.2)


def test_messages_and_bytes_are_told_apart() -> None:
    traffic = Traffic(Limits(messages_per_second=1, bytes_per_second=10))
    assert traffic.judge(KEY, 20, 0.0) == (Ruling.TAKE, None)
    assert traffic.judge(KEY, 1, 0.0) == (Ruling.REFUSE, Over.BYTES)
    assert traffic.judge(KEY, 1, 0.0) == (Ruling.DROP, Over.MESSAGES)
    assert traffic.judge(b"another", 1, 0.0) == (Ruling.TAKE, None)


def test_other_limits_hold_for_who_is_known_already_and_what_was_taken_stays_taken() -> None:
    traffic = Traffic(Limits(messages_per_second=1, bytes_per_second=1000))
    assert [traffic.judge(KEY, 1, 0.0)[0] for _ in range(3)] == [Ruling.TAKE, Ruling.TAKE, Ruling.REFUSE]
    traffic.change(Limits(messages_per_second=10, bytes_per_second=1000))
    assert traffic.judge(KEY, 1, 0.0)[0] is Ruling.DROP, "a change gives nobody a new budget"
    assert [traffic.judge(KEY, 1, 0.2)[0] for _ in range(3)] == [Ruling.TAKE, Ruling.TAKE, Ruling.DROP]
    traffic.change(Limits(messages_per_second=1, bytes_per_second=1000))
    assert [traffic.judge(KEY, 1, 60.0)[0] for _ in range(3)] == [Ruling.TAKE, Ruling.TAKE, Ruling.REFUSE]
    assert traffic.judge(b"new", 1, 60.0)[0] is Ruling.TAKE


def test_it_is_told_once_a_second() -> None:
    traffic = Traffic(Limits())
    told = [traffic.refuse(KEY, at) for at in (10.0, 10.0, 10.0 + TELL_SECONDS)]
    assert told == [Ruling.REFUSE, Ruling.DROP, Ruling.REFUSE]


def test_refusals_lead_to_a_cut_and_cuts_to_a_suspension() -> None:
    traffic = Traffic(Limits())
    steps = [traffic.refuse(KEY, 10.0, REFUSALS_BEFORE_CUT) for _ in range(CUTS_BEFORE_SUSPENSION)]
    assert steps == [Ruling.CUT] * (CUTS_BEFORE_SUSPENSION - 1) + [Ruling.SUSPEND]
    assert traffic.refuse(KEY, 10.0, REFUSALS_BEFORE_CUT) is Ruling.CUT


def test_what_is_long_ago_is_forgiven() -> None:
    traffic = Traffic(Limits())
    assert traffic.refuse(KEY, 10.0, REFUSALS_BEFORE_CUT - 1) is Ruling.REFUSE
    later = 10.0 + CALM_SECONDS + 1
    assert traffic.refuse(KEY, later) is Ruling.REFUSE
    for number in range(10):
        at = later + (number + 1) * CUTS_SECONDS
        assert traffic.refuse(KEY, at, REFUSALS_BEFORE_CUT) is Ruling.CUT
