"""A simulated engine: some items in work at once, the rest of what it was given in a queue; it can stand still."""

from __future__ import annotations

import heapq
import random
from collections import deque

from cfbus.core.outcome import WorkItem

Key = tuple[str, int]


class Engine:
    """Takes ``servers / speed`` seconds for an item, more or less, and ``servers`` items at a time."""

    def __init__(self, rng: random.Random, speed: float, servers: int) -> None:
        self._rng = rng
        self._seconds = servers / speed
        self._idle = servers
        self._waiting: deque[WorkItem] = deque()
        self._running: dict[Key, WorkItem] = {}
        self._ends: list[tuple[float, Key]] = []
        self._dropped: set[Key] = set()
        self._begins_at = 0.0
        self.begun = 0

    @property
    def running(self) -> int:
        """Items in work."""
        return len(self._running)

    def submit(self, items: list[WorkItem], now: float) -> None:
        """Caption these too."""
        self._waiting.extend(items)
        self._begin(now)

    def abandon(self, key: Key, now: float) -> bool:
        """Not needed any more. Says whether it was in work."""
        if self._running.pop(key, None) is None:
            self._dropped.add(key)
            return False
        self._idle += 1
        self._begin(now)
        return True

    def stall(self, now: float, seconds: float) -> None:
        """Nothing goes on for so long."""
        self._begins_at = now + seconds
        self._ends = [(at + seconds, key) for at, key in self._ends]

    def next_end(self) -> float:
        """When the next item is finished."""
        while self._ends and self._ends[0][1] not in self._running:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else float("inf")

    def finished(self, now: float) -> list[WorkItem]:
        """What is finished by now; each place that became free was taken at once."""
        items = []
        while (at := self.next_end()) <= now:
            _, key = heapq.heappop(self._ends)
            items.append(self._running.pop(key))
            self._idle += 1
            self._begin(at)
        return items

    def _begin(self, now: float) -> None:
        while self._idle and self._waiting:
            item = self._waiting.popleft()
            key = (item.lease, item.index)
            if key in self._dropped:
                self._dropped.discard(key)
                continue
            self._idle -= 1
            self.begun += 1
            self._running[key] = item
            # The mean of the gamma distribution is alpha * beta: one.
            seconds = self._seconds * self._rng.gammavariate(4.0, 0.25)
            heapq.heappush(self._ends, (max(now, self._begins_at) + seconds, key))
