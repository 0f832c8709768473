"""The lease table: who may work on what, until when, and what of it nobody helps with.

Knows leases and time (as an argument); nothing of messages. Ended leases are remembered until their
shard's pass is complete, so that late results can be told from made-up ones; of the newest it is known even then
whose they were, so that what comes again is a duplicate and not a stranger's.

Invariants: of the current leases at most one primary and at most one backup cover an item; ``unhelped`` of a primary
is what is undone of it and not of a current backup. A backup outlives its primary as a primary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cfbus.core.effects import Connection, LeaseRow
from cfbus.core.ranges import Pair, RangeSet

COMPLETE_KEPT = 4096
"""So many leases of complete shards are still known: a result of theirs may come again, because its ACK was lost."""
Key = TypeVar("Key")


@dataclass(eq=False)
class LeaseState:
    """One lease and how far it is."""

    row: LeaseRow
    connection: Connection | None
    deadline: float
    granted: float
    undone: RangeSet
    rate: float = 0.0
    concurrency: int = 0  # of its holder
    captioned: int = 0
    taken_up_at: int = -1  # how far it was when a HELLO last prolonged it
    progressed: float = 0.0
    current: bool = True
    preparing: bool = False  # carved, and waiting for its listing or for a feeder
    fed: bool = False  # a feeder was asked to serve its images
    told: int = field(default=0)  # how many items done elsewhere its holder knows of
    skipped: int = 0  # items between its first and its last that were never its own
    unhelped: RangeSet = field(default_factory=RangeSet)  # of a primary: what no backup covers

    @property
    def items(self) -> int:
        """How many items the lease is over."""
        return self.row.end - self.row.start - self.skipped

    @property
    def left(self) -> int:
        """How many items its holder has still to caption, as far as it told."""
        return min(max(self.items - self.captioned, 0), len(self.undone))


def _drop(index: dict[Key, dict[str, LeaseState]], key: Key, lease: str) -> None:
    """Take a lease out of an index, and leave nothing empty there."""
    found = index.get(key, {})
    found.pop(lease, None)
    if not found:
        index.pop(key, None)


class LeaseTable:
    """All remembered leases, by id, by holder and by place."""

    def __init__(self) -> None:
        self._by_id: dict[str, LeaseState] = {}
        self._by_place: dict[tuple[int, int], dict[str, LeaseState]] = {}
        self._current: dict[str, LeaseState] = {}
        self._current_at: dict[tuple[int, int], dict[str, LeaseState]] = {}
        self._by_holder: dict[str, dict[str, LeaseState]] = {}
        self._by_key: dict[str, dict[str, LeaseState]] = {}
        self._complete: dict[str, LeaseRow] = {}  # oldest first
        self.over: list[str] = []  # with a feeder, and not current any more: whoever tells the feeder empties this

    def __iter__(self) -> Iterator[LeaseState]:
        return iter(self._by_id.values())

    def get(self, lease: str) -> LeaseState | None:
        """A remembered lease."""
        return self._by_id.get(lease)

    def current(self) -> Iterable[LeaseState]:
        """The leases that run."""
        return self._current.values()

    def holders(self) -> Iterable[str]:
        """The instances that hold leases that run."""
        return self._by_holder

    def of(self, instance: str) -> Iterable[LeaseState]:
        """The leases that run and that this instance holds, in the order in which it got them."""
        return self._by_holder.get(instance, {}).values()

    def held_by(self, key: str) -> int:
        """How many leases that run this key (its fingerprint) holds, by whatever instances."""
        return len(self._by_key.get(key, ()))

    def outstanding(self, instance: str) -> int:
        """How many items this instance has still to caption."""
        return sum(state.left for state in self.of(instance))

    def at(self, pass_number: int, shard: int) -> list[LeaseState]:
        """All remembered leases on a shard of a pass."""
        return list(self._by_place.get((pass_number, shard), {}).values())

    def _others(self, state: LeaseState) -> list[LeaseState]:
        """The other leases that run and overlap with this one."""
        row = state.row
        found = self._current_at.get((row.pass_number, row.shard), {}).values()
        return [it for it in found if it.row.start < row.end and row.start < it.row.end and it is not state]

    def add(self, state: LeaseState) -> None:
        """A new lease, or one that the ledger remembered."""
        row = state.row
        self._by_id[row.lease] = state
        self._by_place.setdefault((row.pass_number, row.shard), {})[row.lease] = state
        if not state.current:
            return
        self._current[row.lease] = state
        self._current_at.setdefault((row.pass_number, row.shard), {})[row.lease] = state
        self._by_holder.setdefault(row.instance, {})[row.lease] = state
        self._by_key.setdefault(row.key, {})[row.lease] = state
        if not row.backup:
            state.unhelped = state.undone.copy()
        for other in self._others(state):
            if other.row.backup != row.backup:
                primary, backup = (other, state) if row.backup else (state, other)
                primary.unhelped.subtract(backup.undone)

    def _not_current(self, state: LeaseState) -> None:
        row = state.row
        if self._current.pop(row.lease, None) is not None and state.fed:
            self.over.append(row.lease)
        _drop(self._current_at, (row.pass_number, row.shard), row.lease)
        _drop(self._by_holder, row.instance, row.lease)
        _drop(self._by_key, row.key, row.lease)

    def end(self, state: LeaseState) -> tuple[Pair, ...]:
        """The lease runs no more. Returns its undone items that no other current lease covers; none when it had ended
        before, for others may have them since."""
        if not state.current:
            return ()
        state.current = False
        self._not_current(state)
        orphans = state.undone.copy()
        for other in self._others(state):
            self._unhelp(other, state, state.undone)
            if other.row.backup and not state.row.backup and self._is_alone(other):
                # Nobody else has these items now: whoever helped has them, and may be helped.
                other.row = replace(other.row, backup=False)
                other.unhelped = other.undone.copy()
            orphans.subtract(other.undone)
        return orphans.pairs()

    def _is_alone(self, backup: LeaseState) -> bool:
        """No primary covers anything of it any more."""
        primaries = [other.undone for other in self._others(backup) if not other.row.backup]
        return not any(items.within(start, end) for items in primaries for start, end in backup.undone)

    def give_back(self, state: LeaseState, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Its holder hands these back. Returns those that no other current lease covers."""
        back = RangeSet()
        for start, end in pairs:
            back.update(state.undone.within(start, end))
        state.undone.subtract(back)
        state.unhelped.subtract(back)
        orphans = back
        for other in self._others(state):
            self._unhelp(other, state, back)
            orphans = RangeSet(gap for a, b in orphans for gap in other.undone.missing(a, b))
        return orphans.pairs()

    @staticmethod
    def _unhelp(primary: LeaseState, backup: LeaseState, pairs: RangeSet) -> None:
        """The backup has these no more: they are the primary's alone again."""
        if backup.row.backup and not primary.row.backup:
            for start, end in pairs:
                primary.unhelped.update(primary.undone.within(start, end))

    def mark_done(self, pass_number: int, shard: int, pairs: tuple[Pair, ...]) -> list[LeaseState]:
        """These items are durable. Returns the current leases that covered any of them."""
        touched: list[LeaseState] = []
        if not pairs:
            return touched
        first, last = pairs[0][0], pairs[-1][1]
        for state in self._current_at.get((pass_number, shard), {}).values():
            row = state.row
            if row.start < last and first < row.end and state.undone.subtract(pairs):
                state.unhelped.subtract(pairs)
                touched.append(state)
        return touched

    def forget(self, pass_number: int, shard: int) -> tuple[str, ...]:
        """The shard's pass is complete: of its leases no more is known than whose they were. Returns the leases that
        are older, of which nothing is known from now on."""
        for state in self._by_place.pop((pass_number, shard), {}).values():
            del self._by_id[state.row.lease]
            self._not_current(state)
            if not state.preparing:
                self.add_complete(state.row)
        old = tuple(self._complete)[:-COMPLETE_KEPT]
        for lease in old:
            del self._complete[lease]
        return old

    def add_complete(self, row: LeaseRow) -> None:
        """A lease of a shard whose pass is complete."""
        self._complete[row.lease] = row

    def complete(self, lease: str) -> LeaseRow | None:
        """A lease of a shard whose pass is complete, if it is still known."""
        return self._complete.get(lease)

    def drop(self, state: LeaseState) -> None:
        """A lease that was never granted."""
        self._by_id.pop(state.row.lease, None)
        self._not_current(state)
        self._by_place.get((state.row.pass_number, state.row.shard), {}).pop(state.row.lease, None)

    def prolong(self, instance: str, now: float, seconds: float) -> None:
        """What this instance made progress with now goes on for so long, and so does what it got after that: it waits
        in line on the worker, perhaps for longer than a lease lasts."""
        goes_on = False
        for state in self.of(instance):
            goes_on = goes_on or state.progressed == now
            if goes_on and not state.preparing:
                state.deadline = now + seconds

    def postpone(self, seconds: float) -> None:
        """Lease clocks stood still for this long."""
        for state in self._current.values():
            state.deadline += seconds
            state.progressed += seconds

    def next_deadline(self) -> float | None:
        """When the first current lease ends unless it goes on."""
        return min((state.deadline for state in self._current.values() if not state.preparing), default=None)

    def expired(self, now: float) -> list[LeaseState]:
        """Granted leases whose time is over."""
        return [state for state in self._current.values() if state.deadline <= now and not state.preparing]

    def check(self) -> None:
        """Assert the invariants."""
        for pass_number, shard in self._by_place:
            for backup in (False, True):
                seen = RangeSet()
                for state in self.at(pass_number, shard):
                    if state.current and state.row.backup == backup:
                        for a, b in state.undone:
                            assert seen.add(a, b) == b - a, (pass_number, shard, "two leases cover an item")
            self._check_unhelped(pass_number, shard)

    def _check_unhelped(self, pass_number: int, shard: int) -> None:
        current = [state for state in self.at(pass_number, shard) if state.current]
        for state in current:
            alone = state.undone.copy()
            for other in self._others(state):
                alone.subtract(other.undone)
            assert state.row.backup or state.unhelped == alone, (state.row.job, "who helps whom is not known")
