"""Claims that an item is bad, and when they are believed.

"This item cannot be captioned" is what a stranger says. It is believed when a second contributor says
so too, or when the item has failed as often as the configuration allows. Until then the item is tried
again, alone, so that its neighbours are unharmed, by another contributor when there is one.

Pure bookkeeping: knows neither leases nor messages. Claims are not durable; after a restart of the
broker they are made again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

Place = tuple[int, int, int]
"""Pass, shard, index."""
NOTHING = ""
"""The fault of one who had the item and said nothing of it."""
NOT_THE_ITEM_FACTOR = 3
"""Faults of workers and networks are forgiven this many times more often than faults of items."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item given up on."""

    place: Place
    reason: str
    fault: str
    attempts: int
    detail: str
    who: tuple[str, ...]


class Claims:
    """What has been said against items that are neither done nor given up."""

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self._said: dict[tuple[int, int], dict[int, list[tuple[str, str]]]] = {}
        self._again: OrderedDict[Place, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._again)

    def accused(self, pass_number: int, shard: int) -> list[int]:
        """The accused items of a shard."""
        return list(self._said.get((pass_number, shard), ()))

    def accuse(self, place: Place, contributor: str, reason: str, fault: str, detail: str) -> DeadLetter | None:
        """Somebody failed on this item. Returns the verdict when it is final; else the item waits to be tried."""
        said = self._said.setdefault(place[:2], {}).setdefault(place[2], [])
        said.append((contributor, fault))
        item_faults = [who for who, what in said if what == "item"]
        attempts = sum(what != NOTHING for _, what in said)
        final = (
            len(set(item_faults)) > 1
            or len(item_faults) >= self.max_attempts
            or attempts >= self.max_attempts * NOT_THE_ITEM_FACTOR
        )
        if not final:
            self._again[place] = None
            return None
        self.clear(place)
        who = tuple(dict.fromkeys(name for name, what in said if what != NOTHING))
        return DeadLetter(place, reason, fault, attempts, detail, who)

    def next_for(self, contributor: str, leasable: frozenset[int], others: frozenset[str]) -> Place | None:
        """An item to try again: one that this contributor has not tried, or that all who could try have tried.
        It waits no more."""
        for place in self._again:
            if place[0] not in leasable:
                continue
            tried = {who for who, _ in self._said[place[:2]][place[2]]}
            if contributor not in tried or others <= tried:
                del self._again[place]
                return place
        return None

    def wait_for_holder(self, place: Place) -> None:
        """Another lease covers the accused item: it is tried there, and not given out again meanwhile."""
        self._again.pop(place, None)

    def put_back(self, place: Place, contributor: str) -> None:
        """A lease on an accused item ended without a word: it waits again. Its holder had its turn, or an item would
        wait for ever for somebody who takes it and does nothing."""
        said = self._said[place[:2]][place[2]]
        if (contributor, NOTHING) not in said:
            said.append((contributor, NOTHING))
        self._again[place] = None

    def _waiting(self, reason: str | None) -> list[Place]:
        """What waits to be tried again; ``reason``: only where somebody blamed this (``item``, ``worker``, …)."""
        return [
            place
            for place in self._again
            if reason is None or any(fault == reason for _, fault in self._said[place[:2]][place[2]])
        ]

    def count(self, reason: str | None) -> int:
        """How many items ``forgive`` would."""
        return len(self._waiting(reason))

    def forgive(self, reason: str | None) -> int:
        """What was said against items that wait to be tried again is forgotten; their attempts count from none."""
        chosen = self._waiting(reason)
        for place in chosen:
            self._said[place[:2]][place[2]] = [("", NOTHING)]
        return len(chosen)

    def clear(self, place: Place) -> None:
        """The item is done or given up."""
        said = self._said.get(place[:2], {})
        said.pop(place[2], None)
        if not said:
            self._said.pop(place[:2], None)
        self._again.pop(place, None)
