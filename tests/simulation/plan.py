"""What a seed makes happen on the simulated bus. Data only; all chance comes from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cfbus.bus.fields import PAGE_BYTES

MAX_ZOMBIE_LEASE = 5.0
FAT_BYTES = 60_000
"""With captions of this size a few results fill a window; then more of them are lost, so that credit would be too."""


@dataclass(frozen=True)
class Plan:
    """Rates are per second, over all links or processes; probabilities are per message or item."""

    shards: tuple[int, ...]
    slots: tuple[str, ...]
    workers: int
    contributors: int
    chunk: int
    lease_seconds: float
    stormy: bool
    loss: float
    double: float
    jitter: float
    reorder: bool
    breaks: float
    cuts: float
    crashes: float
    stalls: float
    drains: float
    disk_full: float
    bad: frozenset[tuple[int, int]]
    flaky: float
    liar: bool
    zombie: bool
    hostile: bool
    slow_writer: float
    ledger_lost: float
    calm_after: float
    new_slot_at: float | None
    speeds: tuple[float, ...]
    fat: bool
    page_bytes: int
    feeders: int
    far: frozenset[int]  # the workers that cannot read the source
    reloads: float = 0.0

    @property
    def zombie_for_ever(self) -> bool:
        """The zombie does not come back when all is calm; everything ends without it."""
        return self.zombie and self.lease_seconds < MAX_ZOMBIE_LEASE

    @classmethod
    def of(cls, rng: random.Random, *, fed: bool = False) -> Plan:
        """The plan of a seed."""
        fat = rng.random() < 0.12
        shards = tuple(rng.randint(1, 30 if fat else 60) for _ in range(rng.randint(1, 5)))
        workers = rng.randint(1, 5)
        stormy = rng.random() < 0.85
        places = [(shard, index) for shard, length in enumerate(shards) for index in range(length)]

        def storm(*rates: float) -> float:
            return rng.choice(rates) if stormy else 0.0

        return cls(
            shards=shards,
            slots=("a", "b") if rng.random() >= 0.6 or fat else ("a",),
            workers=workers,
            contributors=rng.randint(1, workers),
            chunk=rng.choice([1, 3, 8, 20, 100]),
            lease_seconds=rng.choice([4.0, 10.0, 40.0]),
            stormy=stormy,
            loss=storm(0.0, 0.01, 0.05) * (4 if fat else 1),
            double=storm(0.0, 0.02, 0.1),
            jitter=rng.choice([0.0, 0.01, 0.5]),
            reorder=stormy and rng.random() < 0.4,
            breaks=storm(0.0, 0.05, 0.3),
            cuts=storm(0.0, 0.0, 0.1),
            crashes=storm(0.0, 0.02, 0.15),
            stalls=storm(0.0, 0.0, 0.02),
            drains=storm(0.0, 0.1, 0.2),
            disk_full=storm(0.0, 0.02),
            bad=frozenset(rng.sample(places, min(len(places), rng.choice([0, 1, 3, 6])))),
            flaky=rng.choice([0.0, 0.0, 0.05]),
            liar=rng.random() < 0.15,
            zombie=rng.random() < 0.2,
            hostile=rng.random() < 0.25,
            slow_writer=storm(0.0, 0.0, 0.5, 5.0),
            ledger_lost=rng.choice([0.0, 0.3, 1.0]),
            calm_after=rng.uniform(5.0, 120.0),
            new_slot_at=rng.uniform(1.0, 60.0) if rng.random() < 0.2 else None,
            speeds=tuple(rng.choice([0.02, 0.1, 0.5, 2.0]) for _ in range(workers)),
            fat=fat,
            page_bytes=rng.choice([100, PAGE_BYTES]),
            feeders=rng.randint(1, 3) if fed else 0,
            far=frozenset(rng.sample(range(workers), rng.randint(1, workers))) if fed else frozenset(),
            reloads=rng.choice([0.0, 0.1, 2.0]),
        )
