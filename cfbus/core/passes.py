"""Which items of a pass are done, leased or free, and the carving of chunks from what is free.

Knows shards by number and length only. Nothing here knows workers, leases or messages.

Invariants, for each shard of a pass: done, held and free are disjoint; once a shard is open they make up
the whole shard; before that, what is neither done nor held is free. ``held`` is what somebody has: leased,
waiting to be tried again, or given up and on its way to the journal.
"""

from __future__ import annotations

from collections.abc import Iterable

from cfbus.core.ranges import Pair, RangeSet, Wholes, size


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
    """One walk over all items with a fixed set of slots."""

    def __init__(self, number: int, slots: tuple[str, ...], shards: Shards) -> None:
        self.number = number
        self.slots = slots
        self.done_items = 0
        self.held_items = 0
        self._shards = shards
        self._done: dict[int, RangeSet] = {}
        self._wholes = Wholes()
        self._held: dict[int, RangeSet] = {}
        self._free: dict[int, RangeSet] = {}  # open shards that have free items, oldest first
        self._next = 0  # the first shard that was never opened

    @property
    def free_items(self) -> int:
        """Items that nobody has and that are not done."""
        return self._shards.items - self.done_items - self.held_items

    @property
    def complete(self) -> bool:
        """Every listed item is done."""
        return self.done_items == self._shards.items

    def done_in(self, shard: int, start: int, end: int) -> tuple[Pair, ...]:
        """What is done of [start, end)."""
        done = self._done.get(shard)
        return done.within(start, end) if done else ()

    def undone_in(self, shard: int, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """What is not done of these ranges."""
        done = self._done.get(shard)
        if done is None:
            return tuple(pairs)
        return tuple(gap for start, end in pairs for gap in done.missing(start, end))

    def shard_complete(self, shard: int) -> bool:
        """All items of the shard are done."""
        return len(self._done.get(shard, ())) == self._shards.lengths[shard]

    def forget(self) -> None:
        """Begin again from nothing done; what is held stays held."""
        self._done.clear()
        self._free.clear()
        self._next = 0
        self.done_items = 0

    def mark_done(self, shard: int, pairs: Iterable[Pair]) -> int:
        """These are durable. Returns how many were not known to be."""
        pairs = tuple(pairs)
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

    def take(self, count: int, near: int | None) -> tuple[int, int, int] | None:
        """Hold the next free chunk of at most ``count`` items, in shard ``near`` if that has any."""
        shard = near if near is not None and near in self._free else self._first_open()
        if shard is None:
            return None
        first = self._free[shard].first()
        assert first is not None
        start, end = first[0], min(first[1], first[0] + count)
        self.hold(shard, [(start, end)])
        return shard, start, end

    def gaps(self, limit: int) -> list[tuple[int, int, int]]:
        """The first ranges that nobody has and that are not done: shard, start, end."""
        found = [(shard, start, end) for shard, free in self._free.items() for start, end in free]
        for shard in range(self._next, len(self._shards)):
            if len(found) >= limit:
                break
            held = self._held.get(shard, RangeSet())
            undone = self.undone_in(shard, [(0, self._shards.lengths[shard])])
            found += [(shard, *gap) for start, end in undone for gap in held.missing(start, end)]
        return found[:limit]

    def _first_open(self) -> int | None:
        while not self._free and self._next < len(self._shards):
            shard = self._next
            self._next += 1
            free = RangeSet(self.undone_in(shard, [(0, self._shards.lengths[shard])]))
            free.subtract(self._held.get(shard, ()))
            if free:
                self._free[shard] = free
        return next(iter(self._free), None)

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
                assert len(done) + len(held) + len(free) == length, (shard, "something is nowhere")
            assert size(done) <= length
