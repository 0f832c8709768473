"""The lease table against a model, and what prolongs a lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cfbus.core.effects import LeaseRow
from cfbus.core.helping import Plan
from cfbus.core.leases import COMPLETE_KEPT, LeaseState, LeaseTable
from cfbus.core.ranges import RangeSet, pairs_of

LENGTH = 20


def lease(
    name: str,
    start: int,
    end: int,
    *,
    backup: bool = False,
    now: float = 0.0,
    rate: float = 0.0,
    seconds: float = 100.0,
) -> LeaseState:
    row = LeaseRow(name, f"job-{name}", 1, 0, start, end, f"c-{name}", "k", f"i-{name}", backup, True)
    return LeaseState(row, ("c", name), now + seconds, now, RangeSet([(start, end)]), rate=rate, progressed=now)


class LeaseMachine(RuleBasedStateMachine):
    """Leases of one shard: primaries where nothing is, backups where a primary and no backup is, as planned."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable()
        self.now = 0.0
        self.count = 0
        self.primary: dict[int, str] = {}
        self.backup: dict[int, str] = {}
        self.states: dict[str, LeaseState] = {}

    def _grant(self, items: Sequence[int], owners: dict[int, str], *, backup: bool) -> None:
        self.count += 1
        name = str(self.count)
        state = lease(name, items[0], items[-1] + 1, backup=backup, now=self.now)
        state.undone = RangeSet(pairs_of(items))
        self.states[name] = state
        self.table.add(state)
        owners.update(dict.fromkeys(items, name))

    @rule(start=st.integers(0, LENGTH), count=st.integers(1, 8), step=st.integers(1, 3))
    def primary_lease(self, start: int, count: int, step: int) -> None:
        items = range(start, min(start + count, LENGTH), step)
        if items and not any(index in self.primary or index in self.backup for index in items):
            self._grant(items, self.primary, backup=False)

    @rule(rate=st.sampled_from([0.0, 0.5, 10.0]), passed=st.sampled_from([1.0, 10.0, 50.0]), gone=st.booleans())
    def backup_lease(self, rate: float, passed: float, gone: bool) -> None:
        self.now += passed
        best = Plan(self.table, self.now, lambda _: gone).part_for("i-helper", rate, 0, 5)
        if best is None:
            return
        state, pairs = best
        items = list(RangeSet(pairs).items())
        assert 1 <= len(items) <= 5
        if state.row.backup:
            assert all(self.backup.get(index) == state.row.lease for index in items)
            self.table.give_back(state, pairs)
        else:
            assert all(self.primary.get(index) == state.row.lease for index in items)
            assert not any(index in self.backup for index in items)
        self._grant(items, self.backup, backup=True)

    def _drop(self, name: str, items: set[int]) -> set[int]:
        """These items have this holder no more. Returns those that then have none."""
        own = self.backup if self.states[name].row.backup else self.primary
        gone = {index for index in items if own.get(index) == name}
        for index in gone:
            del own[index]
        return {index for index in gone if index not in self.primary and index not in self.backup}

    def _promote(self, ended: LeaseState) -> None:
        """Who helped and has alone now what it has, has it as a primary."""
        for name in set(self.backup.values()):
            items = [index for index, owner in self.backup.items() if owner == name]
            overlaps = self.states[name].row.start < ended.row.end and ended.row.start < self.states[name].row.end
            if overlaps and not any(index in self.primary for index in items):
                for index in items:
                    self.primary[index] = self.backup.pop(index)

    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        current = [state for state in self.states.values() if state.current]
        if current:
            state = current[which % len(current)]
            orphans = self._drop(state.row.lease, set(range(LENGTH)))
            was_primary = not state.row.backup
            assert self.table.end(state) == pairs_of(sorted(orphans))
            if was_primary:
                self._promote(state)

    @rule(which=st.integers(0, 100), items=st.sets(st.integers(0, LENGTH)))
    def give_back(self, which: int, items: set[int]) -> None:
        current = [state for state in self.states.values() if state.current]
        if current:
            state = current[which % len(current)]
            orphans = self._drop(state.row.lease, items)
            assert self.table.give_back(state, pairs_of(sorted(items))) == pairs_of(sorted(orphans))

    @rule(items=st.sets(st.integers(0, LENGTH), min_size=1))
    def done(self, items: set[int]) -> None:
        names = {owners[index] for owners in (self.primary, self.backup) for index in items if index in owners}
        touched = self.table.mark_done(1, 0, pairs_of(sorted(items)))
        assert {state.row.lease for state in touched} == names
        for owners in (self.primary, self.backup):
            for index in items:
                owners.pop(index, None)

    @rule()
    def expire(self) -> None:
        over = {state.row.lease for state in self.states.values() if state.current and state.deadline <= self.now}
        assert {state.row.lease for state in self.table.expired(self.now)} == over

    @invariant()
    def same(self) -> None:
        self.table.check()
        for state in self.states.values():
            if state.current:
                owners = self.backup if state.row.backup else self.primary
                assert set(state.undone.items()) == {i for i, name in owners.items() if name == state.row.lease}


LeaseMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
test_a_lease_table_knows_who_has_what = LeaseMachine.TestCase


def test_clocks_that_stood_still_are_set_forward() -> None:
    table = LeaseTable()
    state = lease("a", 0, 4, seconds=10.0)
    table.add(state)
    table.postpone(100.0)
    assert not table.expired(109.0)
    assert table.expired(110.0) == [state]
    assert table.next_deadline() == 110.0


def test_a_lease_that_waits_for_its_listing_does_not_expire() -> None:
    table = LeaseTable()
    state = lease("a", 0, 4, seconds=10.0)
    state.preparing = True
    table.add(state)
    assert not table.expired(1000.0)
    assert table.next_deadline() is None


def test_a_complete_shard_has_no_leases_and_it_is_known_whose_they_were() -> None:
    table = LeaseTable()
    table.add(lease("a", 0, 10))
    assert list(table.holders()) == ["i-a"]
    assert table.forget(1, 0) == ()
    assert not list(table.holders())
    assert table.get("a") is None
    assert not list(table.current())
    assert not table.at(1, 0)
    assert table.complete("a") == lease("a", 0, 10).row


def test_of_too_many_complete_leases_the_oldest_are_forgotten() -> None:
    table = LeaseTable()
    for number in range(COMPLETE_KEPT):
        table.add_complete(lease(f"old {number}", 0, 10).row)
    table.add(lease("new", 0, 10))
    assert table.forget(1, 0) == ("old 0",)
    assert table.complete("old 0") is None
    assert table.complete("old 1")
    assert table.complete("new")


def test_what_waits_in_line_behind_progress_goes_on() -> None:
    table = LeaseTable()
    done, slow, waiting = (lease(name, at * 10, at * 10 + 10, seconds=10.0) for at, name in enumerate("abc"))
    for state in (done, slow, waiting):
        state.row = replace(state.row, instance="i")
        table.add(state)
    other = lease("d", 30, 40, seconds=10.0)
    table.add(other)
    slow.progressed = 9.0
    table.prolong("i", 9.0, 10.0)
    # What it got before moves or ends by itself; another's is another's.
    assert table.expired(10.0) == [done, other]
    assert {slow.deadline, waiting.deadline} == {19.0}


def test_a_backup_outlives_its_primary_as_a_primary() -> None:
    table = LeaseTable()
    primary, backup = lease("a", 0, 10), lease("b", 5, 10, backup=True)
    table.add(primary)
    table.add(backup)
    assert primary.unhelped.pairs() == ((0, 5),)
    assert table.end(primary) == ((0, 5),)
    assert not backup.row.backup
    assert backup.unhelped.pairs() == ((5, 10),)
    table.check()


def test_leases_that_the_ledger_remembers_may_come_in_any_order() -> None:
    table = LeaseTable()
    primary, backup = lease("a", 0, 10), lease("b", 5, 10, backup=True)
    table.add(backup)
    table.add(primary)
    assert primary.unhelped.pairs() == ((0, 5),)
    table.end(backup)
    assert primary.unhelped.pairs() == ((0, 10),)


def test_a_lease_that_ends_again_takes_nothing_from_those_who_came_after() -> None:
    table = LeaseTable()
    primary, gone, helper = lease("p", 0, 8), lease("g", 4, 8, backup=True), lease("h", 4, 8, backup=True)
    table.add(primary)
    table.add(gone)
    table.end(gone)
    table.add(helper)
    assert table.end(gone) == ()
    table.check()
    assert primary.unhelped.pairs() == ((0, 4),)
