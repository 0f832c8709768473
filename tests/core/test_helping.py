"""Who is asked to help whom, with how much, and when nobody is."""

from __future__ import annotations

import pytest

from cfbus.core.effects import LeaseRow
from cfbus.core.helping import MIN_GAIN_SECONDS, STALLED_SECONDS, Plan
from cfbus.core.leases import LeaseState, LeaseTable
from cfbus.core.ranges import Pair, RangeSet

ALL = 1000


def lease(name: str, start: int, end: int, rate: float, *, backup: bool = False, holder: str = "") -> LeaseState:
    row = LeaseRow(name, f"job-{name}", 1, 0, start, end, f"c-{name}", "k", holder or f"i-{name}", backup, True)
    return LeaseState(row, ("c", name), 100.0, 0.0, RangeSet([(start, end)]), rate=rate)


def part(
    *states: LeaseState, rate: float, now: float = 1.0, busy: int = 0, most: int = ALL, gone: str = ""
) -> tuple[str, Pair] | None:
    """What a helper would be given of these."""
    table = LeaseTable()
    for state in states:
        table.add(state)
    found = Plan(table, now, lambda instance: instance == gone).part_for("i-helper", rate, busy, most)
    if found is None:
        return None
    state, (pair,) = found
    return state.row.lease, pair


def test_the_slowest_is_helped_at_its_far_end() -> None:
    fast, slow = lease("fast", 0, 100, 100.0), lease("slow", 100, 200, 1.0)
    # Three quarters of the work for three quarters of the speed.
    assert part(fast, slow, rate=3.0) == ("slow", (125, 200))
    assert part(fast, slow, rate=3.0, most=4) == ("slow", (196, 200))


def test_who_has_work_of_its_own_takes_less() -> None:
    # 40 seconds of its own; then both have 60 items of the other for a second each and a third of one.
    assert part(lease("slow", 0, 100, 1.0), rate=3.0, busy=120) == ("slow", (55, 100))
    assert part(lease("slow", 0, 100, 1.0), rate=3.0, busy=300) is None


def test_nobody_helps_where_nothing_is_gained() -> None:
    assert part(lease("a", 0, 10, 10 / MIN_GAIN_SECONDS), rate=1000.0) is None
    assert part(lease("i", 0, 200, 0.1, holder="i-helper"), rate=1000.0) is None  # not oneself
    # The last item of a fast one is nothing for a slow one.
    assert part(lease("a", 0, 4, 1.0), rate=0.1) is None


def test_what_waits_in_line_is_finished_last() -> None:
    first, second = lease("a", 0, 50, 1.0, holder="i"), lease("b", 50, 60, 1.0, holder="i")
    assert part(first, second, lease("c", 60, 115, 1.0), rate=1.0) == ("b", (50, 60))


def test_what_a_backup_covers_is_not_given_again() -> None:
    primary, backup = lease("a", 0, 100, 0.5), lease("b", 40, 100, 30.0, backup=True)
    found = part(primary, backup, rate=1.0)
    assert found is not None
    assert found[0] == "a"
    assert found[1][1] == 40


def test_what_a_slow_backup_has_not_begun_is_moved() -> None:
    primary, backup = lease("a", 0, 100, 0.5), lease("b", 0, 100, 1.0, backup=True)
    backup.concurrency = 64
    assert part(primary, backup, rate=1.0) == ("b", (64, 100))
    backup.concurrency = 100
    assert part(primary, backup, rate=1.0) is None
    # What it has begun is taken over by who needs less than half the time, or when it is gone.
    assert part(primary, backup, rate=9.0) == ("b", (10, 100))
    assert part(primary, backup, rate=1.0, gone="i-b") == ("b", (49, 100))


@pytest.mark.parametrize(("now", "gone", "helped"), [(4.0, "", False), (9.0, "", True), (1.0, "i-a", True)])
def test_who_says_nothing_or_is_gone_is_helped(now: float, gone: str, helped: bool) -> None:
    state = lease("a", 0, 500, 50.0)
    state.captioned = 500  # it said so, but nothing of it came
    state.undone = RangeSet([(436, 500)])
    assert STALLED_SECONDS < 9.0
    assert bool(part(state, rate=50.0, now=now, gone=gone)) == helped


def test_a_lease_that_waits_for_its_listing_is_not_helped() -> None:
    state = lease("a", 0, 100, 1.0)
    state.preparing = True
    assert part(state, rate=1.0) is None


def test_helpers_are_spread_over_what_ends_last() -> None:
    table = LeaseTable()
    for at, rate in enumerate((0.1, 0.1, 0.2)):
        table.add(lease(str(at), at * 10, at * 10 + 10, rate))
    plan = Plan(table, 1.0, lambda _: False)
    helped = []
    for number in range(3):
        found = plan.part_for(f"h{number}", 1.0, 0, 4)
        assert found is not None
        state, ((start, end),) = found
        helped.append(state.row.lease)
        table.add(lease(f"b{number}", start, end, 1.0, backup=True))
    assert set(helped) >= {"0", "1"}
    table.check()


def test_of_an_unknown_speed_half_is_given() -> None:
    assert part(lease("a", 0, 9, 1.0), rate=0.0) == ("a", (5, 9))
    assert part(lease("a", 0, 9, 1.0), rate=0.0, most=2) == ("a", (7, 9))
