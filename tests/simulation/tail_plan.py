"""Who works in a simulated run of the scheduler, when and how fast; and how soon the best of all schedules would end.

Data only; all chance comes from the seed. The *ideal* is the end of a schedule that nothing real can reach: items are
divisible, nobody waits for a message or a listing, nothing is captioned twice or lost, and everyone who is there
captions at full speed until the very last moment. So it is the time at which the sum of the speeds that were really
there, added up over time, has reached the number of items. A worker gives nothing before it joins, after it is gone,
and while it stands still; whatever it captions until then counts, even what will be lost with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

SPREAD = 30.0
SLOWEST = 0.1
MAX_IN_FLIGHT = 64
MAX_SECONDS = 60.0
"""No engine takes longer for an item, on average."""

End = Literal["", "silent", "bye"]


@dataclass(frozen=True)
class Part:
    """A worker's part in a run. Times are seconds from the beginning."""

    name: str
    speed: float  # items a second, when it is kept busy
    concurrency: int  # how many items its engine is given at once
    servers: int  # how many of these the engine works on at once
    joins: float = 0.0
    leaves: float = float("inf")
    how: End = ""
    stalls: float = float("inf")  # from then on it stands still
    stalled: float = 0.0  # for so long
    hears: bool = True  # while it stands still, as if only the engine did; or not even that

    @property
    def changes(self) -> tuple[tuple[float, float], ...]:
        """When its speed changes, and by how much."""
        times = [(self.joins, self.speed), (self.leaves, -self.speed)]
        begin, end = max(self.stalls, self.joins), min(self.stalls + self.stalled, self.leaves)
        if begin < end:
            times += [(begin, -self.speed), (end, self.speed)]
        return tuple(times)


@dataclass(frozen=True)
class Cast:
    """Everybody in a run."""

    items: int
    parts: tuple[Part, ...]

    @property
    def ideal(self) -> float:
        """Seconds until the end of the best of all schedules (see the module)."""
        left, speed, now = float(self.items), 0.0, 0.0
        for at, change in sorted(change for part in self.parts for change in part.changes):
            if at == float("inf") or left <= speed * (at - now):
                break
            left -= speed * (at - now)
            speed, now = speed + change, at
        return now + left / speed

    @classmethod
    def of(cls, seed: int, items: int, workers: int = 64, *, calm: bool = False) -> Cast:
        """The cast of a seed: speeds are spread evenly on a logarithmic scale, the slowest and the fastest included."""
        rng = random.Random(seed)
        places = [0.0, 1.0, *(rng.random() for _ in range(workers - 2))]
        parts = [_part(rng, f"w{at}", SLOWEST * SPREAD**place) for at, place in enumerate(places)]
        if calm:
            return cls(items, tuple(parts))
        seconds = cls(items, tuple(parts)).ideal
        return cls(items, tuple(_with_fate(rng, part, seconds) for part in parts))


def _part(rng: random.Random, name: str, speed: float) -> Part:
    """Items are in flight for some seconds on a fast worker, for minutes on some of the slow ones."""
    seconds = 2.0 * 20.0 ** rng.random()
    concurrency = MAX_IN_FLIGHT if rng.random() < 0.1 else min(max(2, int(speed * seconds)), MAX_IN_FLIGHT)
    servers = 1 if rng.random() < 0.4 else max(1, min(concurrency // 2, int(speed * MAX_SECONDS)))
    return Part(name, speed, concurrency, servers)


def _with_fate(rng: random.Random, part: Part, seconds: float) -> Part:
    """A third of all do something else than work from the beginning to the end."""
    fate = rng.random()
    when = seconds * rng.random()
    if fate < 0.12:
        return replace(part, joins=0.8 * when)
    if fate < 0.20:
        return replace(part, leaves=when, how="silent")
    if fate < 0.25:
        return replace(part, leaves=when, how="bye")
    if fate < 0.35:
        return replace(part, stalls=when, stalled=rng.uniform(10.0, 300.0), hears=rng.random() < 0.5)
    return part
