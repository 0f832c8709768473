"""The leases that a worker holds: what of each is to do, what is in flight, and when one is over.

Part of the worker's core. Knows no results, rates or windows.

Invariants: an item is handed out once per lease; of a lease that is lost nothing more is begun; a lease whose images a
feeder serves is forgotten there once, when nothing more is read of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_HELD, MAX_RANGES
from cfbus.bus.wire import WireError, decode_table
from cfbus.core.effects import Abandon, Effect, Forget, Note, ReadFrom, Send
from cfbus.core.held import Held, Use
from cfbus.core.outcome import WorkItem
from cfbus.core.ranges import RangeSet
from cfbus.core.retransmit import BROKER


class Holding:
    """All leases of one worker, by id, in the order in which it got them."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, lease: str) -> Held | None:
        """The lease, if it is held."""
        return self._held.get(lease)

    @property
    def current(self) -> list[Held]:
        """Those that are still this worker's."""
        return [held for held in self._held.values() if held.current]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are still this worker's, as HELLO tells them."""
        return tuple(held.grant.lease for held in self.current)[:MAX_HELD]

    @property
    def in_flight(self) -> int:
        """Items handed out and not finished."""
        return sum(len(held.in_flight) for held in self._held.values())

    @property
    def unstarted(self) -> int:
        """Items not handed out yet."""
        return sum(len(held.todo) for held in self._held.values())

    @property
    def busy(self) -> bool:
        """Whether anything is to be captioned yet."""
        return any(held.todo or held.in_flight for held in self._held.values())

    def granted(self, message: m.Grant, payload: bytes, *, welcome: bool) -> list[Effect]:
        """A GRANT came; without ``welcome`` it goes back at once."""
        if message.lease in self._held:
            return []
        try:
            listing = decode_table("listing", payload)
        except WireError as error:
            return [Send(BROKER, m.Release(lease=message.lease)), Note("grant.bad", (("why", str(error)),))]
        if listing.rows < message.end - message.start or not welcome:
            return [Send(BROKER, m.Release(lease=message.lease))]
        todo = RangeSet([(message.start, message.end)])
        todo.subtract(message.done)
        locators = listing.text("locator").raws()
        self._held[message.lease] = Held(message, listing.text("key").texts(), locators, todo)
        return [ReadFrom(message.lease, message.feeder)] if message.feeder is not None else []

    def begin(self, count: int, use: Use) -> list[WorkItem]:
        """Up to ``count`` items to read and caption now. What ``use`` has no prompts for waits for a spec that has."""
        items: list[WorkItem] = []
        for held in self._held.values():
            if len(items) >= count:
                break
            by = use.serves(held.grant) if held.todo else None
            while by is not None and held.todo and len(items) < count:
                start, end = held.todo.first() or (0, 0)
                end = min(end, start + count - len(items))
                held.todo.remove(start, end)
                held.in_flight.update(dict.fromkeys(range(start, end), by))
                items += held.items(start, end)
        return items

    def told(self, state: m.LeaseState) -> list[Effect]:
        """What the broker thinks of a lease."""
        held = self._held.get(state.lease)
        if held is None:
            return []
        if not state.current:
            return self.lose(state.lease)
        held.todo.subtract(state.done)
        elsewhere = tuple((i, i + 1) for a, b in state.done for i in sorted(held.in_flight.keys() & set(range(a, b))))
        return self._abandon(held, elsewhere)

    def lose(self, lease: str) -> list[Effect]:
        """The lease is not ours any more: begin nothing more of it. What is finished is still welcome."""
        held = self._held.get(lease)
        if held is None:
            return []
        held.current = False
        return self._stop(held)

    def unreachable(self, lease: str) -> list[Effect]:
        """Nothing of this lease comes from its feeder: what is not finished goes back, and the broker hears why."""
        held = self._held.get(lease)
        if held is None or not held.current:
            return []
        back = held.todo.copy()
        back.update((index, index + 1) for index in held.in_flight)
        gone = self._stop(held)
        pairs = back.pairs()[:MAX_RANGES]
        return [*gone, Send(BROKER, m.Release(lease=lease, ranges=pairs, why="feeder"))] if pairs else gone

    def _stop(self, held: Held) -> list[Effect]:
        held.todo = RangeSet()
        return self._abandon(held, tuple((index, index + 1) for index in sorted(held.in_flight)))

    def _abandon(self, held: Held, pairs: m.Ranges) -> list[Effect]:
        for index in [index for index in held.in_flight if any(start <= index < end for start, end in pairs)]:
            del held.in_flight[index]
        told = self.forget_if_over(held)
        return [Abandon(held.grant.lease, pairs), *told] if pairs else told

    def forget_if_over(self, held: Held) -> list[Effect]:
        """Nothing waits for it any more, or at least nothing more is read of it."""
        effects: list[Effect] = []
        if held.grant.feeder is not None and not held.forgotten and not (held.todo or held.in_flight):
            held.forgotten = True
            effects.append(Forget(held.grant.lease))
        if held.over:
            self._held.pop(held.grant.lease, None)
        return effects
