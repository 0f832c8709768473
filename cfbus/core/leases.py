"""The lease table: who may work on what, until when, and who should help whom at the end.

Knows leases and time (as an argument); nothing of messages. Ended leases are remembered until their
shard's pass is complete, so that late results can be told from made-up ones; of the newest it is known even then
whose they were, so that what comes again is a duplicate and not a stranger's.

Invariant: of the current leases at most one primary and at most one backup cover an item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cfbus.core.effects import Connection, LeaseRow
from cfbus.core.ranges import Pair, RangeSet, size

MIN_GAIN_SECONDS = 0.5
"""A backup lease is made only when it should end the work at least this much sooner."""
COMPLETE_KEPT = 4096
"""So many leases of complete shards are still known: a result of theirs may come again, because its ACK was lost."""
STALLED_SECONDS = 5.0
"""A lease without progress for this long counts as standing still when backups are planned."""


@dataclass(eq=False)
class LeaseState:
    """One lease and how far it is."""

    row: LeaseRow
    connection: Connection | None
    deadline: float
    granted: float
    undone: RangeSet
    rate: float = 0.0
    captioned: int = 0
    taken_up_at: int = -1  # how far it was when a HELLO last prolonged it
    progressed: float = 0.0
    current: bool = True
    preparing: bool = False  # carved, and waiting for its listing
    told: int = field(default=0)  # how many items done elsewhere its holder knows of

    @property
    def items(self) -> int:
        """How many items the lease spans."""
        return self.row.end - self.row.start

    def seconds_left(self, now: float) -> float:
        """A guess of how long its holder still needs."""
        left = max(self.items - self.captioned, 0)
        if left == 0:
            return 0.0 if now - self.progressed < STALLED_SECONDS else STALLED_SECONDS
        if now - self.progressed > STALLED_SECONDS:
            # No news: as slow as it has been since the grant, or dead; the longer it is silent, the more so.
            return max(left * (now - self.granted) / max(self.captioned, 0.5), now - self.progressed)
        if self.rate > 0:
            return left / self.rate
        return 0.0 if self.captioned == 0 else left * (now - self.granted) / self.captioned


class LeaseTable:
    """All remembered leases, by id, by holder and by place."""

    def __init__(self) -> None:
        self._by_id: dict[str, LeaseState] = {}
        self._by_place: dict[tuple[int, int], dict[str, LeaseState]] = {}
        self._current: dict[str, LeaseState] = {}
        self._complete: dict[str, LeaseRow] = {}  # oldest first

    def __iter__(self) -> Iterator[LeaseState]:
        return iter(self._by_id.values())

    def get(self, lease: str) -> LeaseState | None:
        """A remembered lease."""
        return self._by_id.get(lease)

    def current(self) -> Iterable[LeaseState]:
        """The leases that run."""
        return self._current.values()

    def at(self, pass_number: int, shard: int) -> list[LeaseState]:
        """All remembered leases on a shard of a pass."""
        return list(self._by_place.get((pass_number, shard), {}).values())

    def add(self, state: LeaseState) -> None:
        """A new lease, or one that the ledger remembered."""
        row = state.row
        self._by_id[row.lease] = state
        self._by_place.setdefault((row.pass_number, row.shard), {})[row.lease] = state
        if state.current:
            self._current[row.lease] = state

    def end(self, state: LeaseState) -> tuple[Pair, ...]:
        """The lease runs no more. Returns its undone items that no other current lease covers."""
        state.current = False
        self._current.pop(state.row.lease, None)
        orphans = state.undone.copy()
        for other in self.at(state.row.pass_number, state.row.shard):
            if other.current:
                orphans.subtract(other.undone)
        return orphans.pairs()

    def give_back(self, state: LeaseState, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Its holder hands these back. Returns those that no other current lease covers."""
        back = RangeSet()
        for start, end in pairs:
            back.update(state.undone.within(start, end))
        state.undone.subtract(back)
        orphans = back
        for other in self.at(state.row.pass_number, state.row.shard):
            if other.current and other is not state:
                orphans = RangeSet(gap for a, b in orphans for gap in other.undone.missing(a, b))
        return orphans.pairs()

    def mark_done(self, pass_number: int, shard: int, pairs: tuple[Pair, ...]) -> list[LeaseState]:
        """These items are durable. Returns the current leases that covered any of them."""
        touched: list[LeaseState] = []
        if not pairs:
            return touched
        first, last = pairs[0][0], pairs[-1][1]
        for state in self._by_place.get((pass_number, shard), {}).values():
            row = state.row
            if state.current and row.start < last and first < row.end and state.undone.subtract(pairs):
                touched.append(state)
        return touched

    def forget(self, pass_number: int, shard: int) -> tuple[str, ...]:
        """The shard's pass is complete: of its leases no more is known than whose they were. Returns the leases that
        are older, of which nothing is known from now on."""
        for state in self._by_place.pop((pass_number, shard), {}).values():
            del self._by_id[state.row.lease]
            self._current.pop(state.row.lease, None)
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
        self._current.pop(state.row.lease, None)
        self._by_place.get((state.row.pass_number, state.row.shard), {}).pop(state.row.lease, None)

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

    def best_to_back_up(self, instance: str, rate: float, now: float) -> tuple[LeaseState, Pair] | None:
        """The lease that a helper of this rate would shorten most, and the part that it should take over."""
        best: tuple[float, LeaseState, Pair] | None = None
        for state in self._current.values():
            if state.row.backup or state.preparing or state.row.instance == instance:
                continue
            part = self._far_part(state, rate, now)
            if part is None:
                continue
            gain, pair = part
            if best is None or gain > best[0]:
                best = (gain, state, pair)
        return (best[1], best[2]) if best else None

    def _far_part(self, state: LeaseState, rate: float, now: float) -> tuple[float, Pair] | None:
        open_items = state.undone.copy()
        for other in self.at(state.row.pass_number, state.row.shard):
            if other.current and other.row.backup:
                open_items.subtract(other.undone)
        far = open_items.last()
        left = state.seconds_left(now)
        if far is None or left <= MIN_GAIN_SECONDS:
            return None
        count = size(open_items)
        if rate > 0:
            # Both end together when the helper takes its share of the speed.
            own = count / left
            count = max(1, int(count * rate / (rate + own)))
            gain = left - max(count / rate, left * (1 - count / max(size(open_items), 1)))
        else:
            count = max(1, count // 2)
            gain = left / 2
        if gain < MIN_GAIN_SECONDS:
            return None
        return gain, (max(far[0], far[1] - count), far[1])

    def check(self) -> None:
        """Assert the invariant."""
        for pass_number, shard in self._by_place:
            for backup in (False, True):
                seen = RangeSet()
                for state in self.at(pass_number, shard):
                    if state.current and state.row.backup == backup:
                        for a, b in state.undone:
                            assert seen.add(a, b) == b - a, (pass_number, shard, "two leases cover an item")
