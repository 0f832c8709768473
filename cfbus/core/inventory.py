"""What a store holds, as far as its writer's decisions need it: shards, passes, what redos are over, what is done.

Part of the writer's core. Knows no results and no frames. Invariant: what is done never becomes undone; of a closed
pass everything is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from cfbus.bus import messages as m
from cfbus.core.ranges import Pair, RangeSet, Wholes
from cfbus.core.telling import StatePage, done_pages, pass_pages, selected_pages, shard_pages

Place = tuple[int, int]
"""Pass and shard."""
Row = tuple[int, int, int, int]
"""Pass, shard, start, end."""


class Inventory:
    """Shards by number, passes by number, what is done by pass and shard."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.passes: dict[int, m.PassFacts] = {}
        self._names: list[str] = []
        self._selected: dict[int, dict[int, RangeSet]] = {}  # of redos: by pass and shard
        self._done: dict[Place, RangeSet] = {}
        self._wholes = Wholes()

    # ------------------------------------------------------------------ what is told of the store

    def know_shard(self, name: str, length: int) -> None:
        """The next shard of the listing."""
        self._names.append(name)
        self.lengths.append(length)

    def know_pass(self, facts: m.PassFacts, selected: Iterable[tuple[int, int, int]] = ()) -> None:
        """A pass, and what it is over (shard, start, end) if it is a redo."""
        self.passes[facts.number] = facts
        if facts.items is not None and facts.number not in self._selected:
            found: dict[int, RangeSet] = defaultdict(RangeSet)
            for shard, start, end in selected:
                found[shard].add(start, end)
            self._selected[facts.number] = dict(found)
        if facts.closed:
            for number, shard, start, end in self._selected_rows([facts.number]):
                self.know_done((number, shard), [(start, end)])

    def know_done(self, place: Place, pairs: Iterable[Pair]) -> None:
        """Items that are durable."""
        done = self._done.setdefault(place, RangeSet())
        done.update(pairs)
        self._done[place] = self._wholes.shared(done, self.lengths[place[1]])

    # ------------------------------------------------------------------ questions

    @property
    def slots(self) -> set[str]:
        """The slots of all passes."""
        return {slot for own in self.passes.values() for slot in own.slots}

    def new_items(self, place: Place, ranges: Iterable[Pair], staged: RangeSet | None) -> tuple[Pair, ...]:
        """What of these items belongs to the pass and is neither done nor staged."""
        new = tuple(ranges)
        if place[0] in self._selected:
            selected = self._selected[place[0]].get(place[1], RangeSet())
            new = tuple(part for start, end in new for part in selected.within(start, end))
        for have in (self._done.get(place), staged):
            if have:
                new = tuple(gap for start, end in new for gap in have.missing(start, end))
        return new

    def done(self) -> dict[Place, tuple[Pair, ...]]:
        """What is durable, by pass and shard; for tests and scans."""
        return {place: items.pairs() for place, items in self._done.items()}

    # ------------------------------------------------------------------ what the broker is told

    def pages(self, shards: int) -> list[StatePage]:
        """All of it; of the shards those from number ``shards`` on."""
        rows = ((number, shard, a, b) for (number, shard), items in self._done.items() for a, b in items)
        told = pass_pages(shards, self.passes.values())
        told += selected_pages(self._selected_rows(self._selected)) if self._selected else []
        return [*told, *self.shard_pages(shards), *done_pages(rows)]

    def shard_pages(self, first: int) -> list[StatePage]:
        """The shards from number ``first`` on."""
        return shard_pages(first, self._names, self.lengths)

    def pass_pages(self, *numbers: int) -> list[StatePage]:
        """These passes with what they are over, and that all of it is done where they are closed; all without numbers,
        and then without what redos are over."""
        told = pass_pages(len(self.lengths), [self.passes[number] for number in numbers or self.passes])
        redos = [number for number in numbers if number in self._selected]
        closed = [number for number in redos if self.passes[number].closed]
        told += selected_pages(self._selected_rows(redos)) if redos else []
        return told + (done_pages(self._selected_rows(closed)) if closed else [])

    def _selected_rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        for number in numbers:
            for shard, items in self._selected[number].items():
                yield from ((number, shard, start, end) for start, end in items)
