"""A real run of workers of very different speed: broker, writer and eight `cfbus-gpu`, all at once, and its shape.

The engine is the scripted one, one item after the other, each worker by its own factor faster. The bus is paused until
all workers are there, so that nobody's start counts. A test asserts the shape, and a benchmark prints it.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.dataset as ds
from processes.support import Command, Nursery, Terminals

SPREAD = 30.0
SLOWEST = 8.0  # items a second
WORKERS = 8
CONCURRENCY = 8
_STOPPED = re.compile(r"worker\.stops captioned=(\d+)")


@dataclass(frozen=True)
class Worker:
    """What one worker did."""

    speed: float
    items: int  # in the table
    captioned: int  # by its engine
    until: float  # when its last result came, in seconds from the first lease


@dataclass(frozen=True)
class Shape:
    """What came of the run."""

    items: int
    ideal: float
    end: float  # from the first lease to the last result
    backups: int
    workers: tuple[Worker, ...]

    @property
    def waste(self) -> float:
        """The share of items that were captioned for nothing."""
        return sum(worker.captioned for worker in self.workers) / self.items - 1

    @property
    def first_to_stop(self) -> float:
        """The share of the run at which the first worker had its last result: near 1 when all end together."""
        return min(worker.until for worker in self.workers) / self.end

    def lines(self) -> list[str]:
        """For people."""
        table = [
            f"{worker.speed:9.1f} {worker.items:9d} {worker.captioned:9d} {worker.until:8.2f} s"
            for worker in self.workers
        ]
        return [
            "  items/s    stored captioned    until",
            *table,
            f"ideal {self.ideal:.2f} s, end {self.end:.2f} s: {self.end / self.ideal - 1:.1%} late; "
            f"waste {self.waste:.2%}, {self.backups} backup leases",
        ]


def speeds() -> list[float]:
    """Spread evenly on a logarithmic scale."""
    return [SLOWEST * SPREAD ** (at / (WORKERS - 1)) for at in range(WORKERS)]


def run(nursery: Nursery, folder: Path, seconds: float, check: Callable[[Path, int], object]) -> Shape:
    """Caption what takes so long at best. ``check`` is given the store and how many items it should hold."""
    items = int(sum(speeds()) * seconds)
    bus = Terminals(
        nursery, folder, "dataset.source=scripted", f"dataset.items={items}", "captions.engine=scripted",
        f"captions.scripted.rate={SLOWEST}", f"worker.concurrency={CONCURRENCY}",
    )  # fmt: skip
    broker = bus.start("broker")
    broker.says("broker.serves")
    bus.admin("pause")
    writer = bus.start("writer")
    gpus = [
        bus.start(f"gpu-{at}", "--name", f"w{at}", "--set", f"captions.scripted.speed={speed / SLOWEST}")
        for at, speed in enumerate(speeds())
    ]
    with bus.watch() as watch:
        watch.until("all workers wait for the first lease", lambda s: s.workers == WORKERS and s.passes > 0)
        bus.admin("resume")
        watch.until("all is done and sealed", lambda s: s.finished and s.sealed > 0, seconds * 4 + 60)
        backups = watch.fresh().backups_granted
    stopped = [_captioned(gpu) for gpu in gpus]
    for daemon in (writer, broker):
        daemon.signal(signal.SIGTERM)
        daemon.ends(0)
    check(bus.store, items)
    return _shape(bus.store, broker.said, items, backups, stopped)


def _captioned(gpu: Command) -> int:
    """It ends, and says how many items its engine captioned."""
    gpu.signal(signal.SIGTERM)
    said = _STOPPED.search(gpu.ends(0))
    assert said is not None
    return int(said[1])


def _shape(store: Path, log: str, items: int, backups: int, captioned: list[int]) -> Shape:
    granted = re.search(r"^(\S+)Z info +broker lease\.granted ", log, re.MULTILINE)
    assert granted is not None
    began = datetime.fromisoformat(f"{granted[1]}+00:00").timestamp()
    table = ds.dataset(store / "captions", format="parquet").to_table(columns=["worker", "timestamp"])
    names = table["worker"].to_pylist()
    times = [when.timestamp() - began for when in table["timestamp"].to_pylist()]
    stored = Counter(names)
    last: dict[str, float] = {}
    for name, when in zip(names, times, strict=True):
        last[name] = max(last.get(name, 0.0), when)
    by_number = {int(name[1:].partition("-")[0]): name for name in stored}
    workers = tuple(
        Worker(speed, stored[by_number.get(at, "")], captioned[at], last.get(by_number.get(at, ""), 0.0))
        for at, speed in enumerate(speeds())
    )
    return Shape(items, items / sum(speeds()), max(times), backups, workers)
