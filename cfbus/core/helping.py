"""Who should help whom when nothing is free: backup leases over what would be finished last.

Part of the broker's core; knows leases and time (as an argument), nothing of messages or peers. A *plan* is made for
one moment: it guesses when each holder will have finished what it has, and gives the far end of what ends last to those
who have nothing to do. Of a primary that is what no backup covers; of a backup what it has not begun, which is moved.

Invariant: nothing is given away but while the helper should finish it sooner than its holder.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cfbus.core.leases import LeaseState, LeaseTable
from cfbus.core.passes import MAX_PIECES
from cfbus.core.ranges import Pair, RangeSet, size

MIN_GAIN_SECONDS = 0.5
"""A backup lease is made only when it should end the work at least this much sooner."""
STALLED_SECONDS = 5.0
"""A holder that should have finished some items and told of none for this long counts as standing still."""
OVERDUE_ITEMS = 3.0
FAR_SOONER = 2.0
"""What a backup's holder has begun is taken from it only if it is done in half the time."""


@dataclass(frozen=True, slots=True, order=True)
class _Last:
    """A lease and when its holder should have finished it; what ends last comes first."""

    before: float  # minus the seconds until then
    lease: str
    rate: float = field(compare=False)
    begun: int = field(compare=False)  # so many of its items the holder's engine may have
    state: LeaseState = field(compare=False)


class Plan:
    """The leases that would end last, at one moment."""

    def __init__(self, leases: LeaseTable, now: float, gone: Callable[[str], bool]) -> None:
        self.made = now
        self._now = now
        self._last: list[_Last] = []
        for holder in leases.holders():
            self._add_leases_of(list(leases.of(holder)), gone(holder))
        heapq.heapify(self._last)

    def _add_leases_of(self, states: list[LeaseState], gone: bool) -> None:
        rate = rate_of(states, self._now)
        pause = self._pause(states, rate, gone)
        ahead = 0
        for state in states:
            left = ahead + state.left
            seconds = pause + left / rate
            if seconds > MIN_GAIN_SECONDS and not state.preparing and open_items(state):
                begun = 0 if gone else max(state.concurrency - ahead, 0)
                self._last.append(_Last(-seconds, state.row.lease, max(left, 0.5) / seconds, begun, state))
            ahead = left

    def _pause(self, states: list[LeaseState], rate: float, gone: bool) -> float:
        """How much longer than its work a holder will need as it says nothing: the longer it was silent, the more."""
        silent = self._now - max(state.progressed for state in states)
        if gone:
            return max(silent, STALLED_SECONDS)
        return silent if silent > max(STALLED_SECONDS, OVERDUE_ITEMS / rate) else 0.0

    def part_for(self, instance: str, rate: float, busy: int, most: int) -> tuple[LeaseState, tuple[Pair, ...]] | None:
        """What this helper should take over, which has ``busy`` items to caption already."""
        aside = []
        found = None
        while self._last and found is None:
            last = heapq.heappop(self._last)
            if not (last.state.current and open_items(last.state)):
                continue
            aside.append(last)
            if last.state.row.instance == instance:
                continue
            if shared(last, rate, busy, most) == 0:
                break  # and of what ends sooner nothing either
            count = _count(last, rate, busy, most)
            if count:
                found = last.state, open_items(last.state).far_end(count, MAX_PIECES)
                count = size(found[1])
                aside[-1] = replace(last, before=last.before + count / last.rate)
        for last in aside:
            heapq.heappush(self._last, last)
        return found


def open_items(state: LeaseState) -> RangeSet:
    """What of a lease somebody else could have."""
    return state.undone if state.row.backup else state.unhelped


def rate_of(states: list[LeaseState], now: float) -> float:
    """Items a second of one holder, as it told, or as it seems."""
    told = max(state.rate for state in states)
    if told > 0:
        return told
    captioned = sum(state.captioned for state in states)
    return max(captioned, 0.5) / max(now - min(state.granted for state in states), 0.1)


def shared(last: _Last, rate: float, busy: int, most: int) -> int:
    """How many items a helper should take so that both end together; 0 if that is not worth it."""
    seconds = -last.before
    if rate <= 0:
        # Nobody knows how fast it is: as fast as the other, then.
        return max(1, min(int(seconds * last.rate / 2), most))
    count = int((seconds - busy / rate) * last.rate * rate / (last.rate + rate))
    count = max(1, min(count, most))
    return count if seconds - (busy + count) / rate >= MIN_GAIN_SECONDS else 0


def _count(last: _Last, rate: float, busy: int, most: int) -> int:
    """How many of the items that somebody else could have. What a backup's holder has begun is taken from it only where
    that is far sooner: it was for nothing then."""
    items = len(open_items(last.state))
    count = shared(last, rate, busy, min(items, most))
    fresh = items - last.begun
    if not last.state.row.backup or count <= fresh:
        return count
    far_sooner = rate > 0 and (busy + count) / rate + MIN_GAIN_SECONDS < -last.before / FAR_SOONER
    return count if far_sooner else max(0, fresh)
