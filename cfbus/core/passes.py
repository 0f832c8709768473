"""Which items of a pass are done, leased or free, and the carving of chunks from what is free.

Knows shards by number and length only. Nothing here knows workers, leases or messages.

Invariants, for each shard of a pass: done, held and free are disjoint; once a shard is open they make up
the whole shard, or what of it a redo is over; before that, what is neither done nor held is free. ``held`` is what
somebody has: leased, waiting to be tried again, or given up and on its way to the journal. What a redo is over never
changes; for it nothing else exists.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from cfbus.bus.fields import Overrides
from cfbus.core.ranges import Pair, RangeSet, Wholes, size

MAX_SPAN = 4096
MAX_PIECES = 1024
"""A chunk of what is free here and there spans at most so many items, in at most so many pieces."""
Selected = Mapping[int, RangeSet]
"""What of each shard a redo is over."""


class Shards:
    """The listed shards, dense numbers from 0, which only grow."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.items = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, name: str, length: int) -> None:
        """The next shard."""
        self.names.append(name)
        self.lengths.append(length)
        self.items += length


class Pass:
    """One walk over all items, or over those of a redo, with a fixed set of slots."""

    def __init__(
        self,
        number: int,
        slots: tuple[str, ...],
        shards: Shards,
        selected: Selected | None = None,
        overrides: Overrides = (),
    ) -> None:
        self.number = number
        self.slots = slots
        self.overrides = overrides
        self.closed = False  # nothing more is to be done of it, whatever is done
        self.done_items = 0
        self.held_items = 0
        self._shards = shards
        self._selected = selected
        self._selected_shards = sorted(selected or ())
        self._selected_items = sum(map(len, (selected or {}).values()))
        self._done: dict[int, RangeSet] = {}
        self._wholes = Wholes()
        self._held: dict[int, RangeSet] = {}
        self._free: dict[int, RangeSet] = {}  # open shards that have free items, oldest first
        self._next = 0  # the first shard that was never opened

    @property
    def is_redo(self) -> bool:
        """It is over some items only."""
        return self._selected is not None

    @property
    def items(self) -> int:
        """How many items it is over."""
        return self._shards.items if self._selected is None else self._selected_items

    @property
    def free_items(self) -> int:
        """Items that nobody has and that are not done."""
        return self.items - self.done_items - self.held_items

    @property
    def complete(self) -> bool:
        """Every item is done, or nothing more is to be."""
        return self.closed or self.done_items == self.items

    def done_in(self, shard: int, start: int, end: int) -> tuple[Pair, ...]:
        """What is done of [start, end)."""
        done = self._done.get(shard)
        return done.within(start, end) if done else ()

    def undone_in(self, shard: int, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """What is not done of these ranges."""
        pairs, done = self._of_pass(shard, pairs), self._done.get(shard)
        if done is None:
            return pairs
        return tuple(gap for start, end in pairs for gap in done.missing(start, end))

    def _of_pass(self, shard: int, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        if self._selected is None:
            return tuple(pairs)
        selected = self._selected.get(shard)
        return tuple(part for start, end in pairs for part in selected.within(start, end)) if selected else ()

    def _length(self, shard: int) -> int:
        return self._shards.lengths[shard] if self._selected is None else len(self._selected.get(shard, ()))

    def shard_complete(self, shard: int) -> bool:
        """All items of the shard are done."""
        return len(self._done.get(shard, ())) == self._length(shard)

    def forget(self) -> None:
        """Begin again from nothing done; what is held stays held."""
        self._done.clear()
        self._free.clear()
        self._next = 0
        self.done_items = 0

    def mark_done(self, shard: int, pairs: Iterable[Pair]) -> int:
        """These are durable. Returns how many were not known to be."""
        pairs = self._of_pass(shard, pairs)
        if not pairs:
            return 0
        done = self._done.setdefault(shard, RangeSet())
        new = done.update(pairs)
        # One look for many ranges: after a restart there may be a million of them, and nobody holds anything.
        if shard in self._held:
            for start, end in pairs:
                self._unhold(shard, start, end)
        if shard in self._free:
            for start, end in pairs:
                self._unfree(shard, start, end)
        self._done[shard] = self._wholes.shared(done, self._shards.lengths[shard])
        self.done_items += new
        return new

    def hold(self, shard: int, pairs: Iterable[Pair]) -> None:
        """Somebody has these now; what is done of them stays done."""
        held = self._held.setdefault(shard, RangeSet())
        for start, end in self.undone_in(shard, pairs):
            self.held_items += held.add(start, end)
            self._unfree(shard, start, end)

    def release(self, shard: int, pairs: Iterable[Pair]) -> int:
        """Nobody has these any more. Returns how many became free."""
        freed = 0
        for start, end in pairs:
            held = self._held.get(shard)
            for a, b in held.within(start, end) if held else ():
                self._unhold(shard, a, b)
                freed += b - a
                if shard < self._next:
                    self._free.setdefault(shard, RangeSet()).add(a, b)
        return freed

    def take(self, count: int, near: int | None) -> tuple[int, tuple[Pair, ...]] | None:
        """Hold the next free chunk of at most ``count`` items, in shard ``near`` if that has any. It has gaps where
        what is free has some."""
        shard = near if near is not None and near in self._free else self._first_open()
        if shard is None:
            return None
        taken: list[Pair] = []
        for start, end in self._free[shard]:
            if taken and (start - taken[0][0] >= MAX_SPAN or len(taken) == MAX_PIECES):
                break
            taken.append((start, min(end, start + count)))
            count -= taken[-1][1] - start
            if count == 0:
                break
        self.hold(shard, taken)
        return shard, tuple(taken)

    def gaps(self, limit: int) -> list[tuple[int, int, int]]:
        """The first ranges that nobody has and that are not done: shard, start, end."""
        found = [(shard, start, end) for shard, free in self._free.items() for start, end in free]
        for shard in self._not_opened():
            if len(found) >= limit:
                break
            held = self._held.get(shard, RangeSet())
            undone = self.undone_in(shard, [(0, self._shards.lengths[shard])])
            found += [(shard, *gap) for start, end in undone for gap in held.missing(start, end)]
        return found[:limit]

    def _first_open(self) -> int | None:
        while not self._free and (shard := next(self._not_opened(), None)) is not None:
            self._next = shard + 1
            free = RangeSet(self.undone_in(shard, [(0, self._shards.lengths[shard])]))
            free.subtract(self._held.get(shard, ()))
            if free:
                self._free[shard] = free
        return next(iter(self._free), None)

    def _not_opened(self) -> Iterator[int]:
        """The shards that were never opened and have items of this pass, in order."""
        if self._selected is None:
            yield from range(self._next, len(self._shards))
        else:
            yield from self._selected_shards[bisect_left(self._selected_shards, self._next) :]

    def _unfree(self, shard: int, start: int, end: int) -> None:
        free = self._free.get(shard)
        if free is not None:
            free.remove(start, end)
            if not free:
                del self._free[shard]

    def _unhold(self, shard: int, start: int, end: int) -> None:
        held = self._held.get(shard)
        if held is not None:
            self.held_items -= held.remove(start, end)
            if not held:
                del self._held[shard]

    def check(self) -> None:
        """Assert the invariants."""
        assert self.done_items == sum(map(len, self._done.values()))
        assert self.held_items == sum(map(len, self._held.values()))
        for shard, length in enumerate(self._shards.lengths):
            done, held = self._done.get(shard, RangeSet()), self._held.get(shard, RangeSet())
            free = self._free.get(shard, RangeSet())
            for a, b in held:
                assert not done.within(a, b), (shard, "held and done")
                assert not free.within(a, b), (shard, "held and free")
            for a, b in free:
                assert not done.within(a, b), (shard, "free and done")
            if shard < self._next:
                assert len(done) + len(held) + len(free) == self._length(shard), (shard, "something is nowhere")
            assert size(done) <= length
            for a, b in (*done, *held, *free):
                assert size(self._of_pass(shard, [(a, b)])) == b - a, (shard, "not of this pass")
