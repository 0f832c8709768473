"""Sets of item indices as half-open ranges.

For: done, free and leased items of a shard, where a few long ranges stand for many items.
Invariant: ``_starts`` and ``_ends`` ascend, no two ranges touch, none is empty.
All changes cost O(log n) plus the ranges they touch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Pair = tuple[int, int]


class RangeSet:
    """A mutable set of non-negative integers, kept as ranges."""

    __slots__ = ("_count", "_ends", "_starts")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._count = 0
        for start, end in pairs:
            self.add(start, end)

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __iter__(self) -> Iterator[Pair]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._starts, index) - 1
        return at >= 0 and index < self._ends[at]

    def pairs(self) -> tuple[Pair, ...]:
        """The ranges, ascending."""
        return tuple(self)

    def spans(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def items(self) -> Iterator[int]:
        """Each index, ascending."""
        for start, end in self:
            yield from range(start, end)

    def copy(self) -> RangeSet:
        """A set of its own."""
        other = RangeSet()
        other._starts, other._ends, other._count = self._starts.copy(), self._ends.copy(), self._count
        return other

    def add(self, start: int, end: int) -> int:
        """Put [start, end) in; returns how many were not there."""
        if end <= start:
            return 0
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        before = sum(self._ends[low:high]) - sum(self._starts[low:high])
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        added = end - start - before
        self._count += added
        return added

    def remove(self, start: int, end: int) -> int:
        """Take [start, end) out; returns how many were there."""
        if end <= start:
            return 0
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        if low >= high:
            return 0
        first, last = self._starts[low], self._ends[high - 1]
        gaps = sum(self._starts[low + 1 : high]) - sum(self._ends[low : high - 1])
        left, right = first < start, end < last
        self._starts[low:high] = [first] * left + [end] * right
        self._ends[low:high] = [start] * left + [last] * right
        removed = min(end, last) - max(start, first) - gaps
        self._count -= removed
        return removed

    def update(self, pairs: Iterable[Pair]) -> int:
        """Put all these in; returns how many were not there."""
        return sum(self.add(start, end) for start, end in pairs)

    def subtract(self, pairs: Iterable[Pair]) -> int:
        """Take all these out; returns how many were there."""
        return sum(self.remove(start, end) for start, end in pairs)

    def within(self, start: int, end: int) -> tuple[Pair, ...]:
        """The part of the set that lies in [start, end)."""
        if end <= start:
            return ()
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        return tuple((max(start, self._starts[at]), min(end, self._ends[at])) for at in range(low, high))

    def missing(self, start: int, end: int) -> tuple[Pair, ...]:
        """The part of [start, end) that is not in the set."""
        gaps = []
        for a, b in self.within(start, end):
            if start < a:
                gaps.append((start, a))
            start = b
        if start < end:
            gaps.append((start, end))
        return tuple(gaps)

    def first(self) -> Pair | None:
        """The lowest range."""
        return (self._starts[0], self._ends[0]) if self._starts else None

    def far_end(self, count: int, pieces: int) -> tuple[Pair, ...]:
        """The highest ``count`` of them, or as many as are in so many ranges."""
        found: list[Pair] = []
        for start, end in zip(reversed(self._starts), reversed(self._ends), strict=True):
            if count <= 0 or len(found) == pieces:
                break
            found.append((max(start, end - count), end))
            count -= end - found[-1][0]
        return tuple(reversed(found))


class Wholes:
    """One set for all shards of a length of which everything is in: a billion items have a quarter of a million shards,
    and most of them are done. Nothing may be taken out of these sets."""

    def __init__(self) -> None:
        self._by_length: dict[int, RangeSet] = {}

    def shared(self, items: RangeSet, length: int) -> RangeSet:
        """The same set, or the shared one if nothing is missing."""
        if len(items) < length:
            return items
        return self._by_length.setdefault(length, items)


def size(pairs: Iterable[Pair]) -> int:
    """How many items these ranges hold."""
    return sum(end - start for start, end in pairs)


def pairs_of(indices: Iterable[int]) -> tuple[Pair, ...]:
    """Ascending indices as ranges."""
    pairs: list[Pair] = []
    for index in indices:
        if pairs and pairs[-1][1] == index:
            pairs[-1] = (pairs[-1][0], index + 1)
        else:
            pairs.append((index, index + 1))
    return tuple(pairs)
