"""kill -9 of a writer or a broker at one chosen system call; then it is started again, and all has to be right.

``one_point`` is a whole run on a bus of its own: some leases, several segments, the end, and an orderly stop, so that
opening, committing, sealing, and closing are all among the calls.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from chaos.bus import Bus
from chaos.nest import Nest
from chaos.tracing import Point, count, counted, fail_at, kill_at, traced
from processes.support import Watch, until
from processes.tables import durable, untouched

from cfbus.errors import DamagedStoreError

ITEMS = 320
VICTIMS = ("writer", "broker")
ROLES = ("broker", "writer", "gpu-0")
SETTINGS = (
    f"dataset.items={ITEMS}",
    "dataset.shard_items=100",
    "captions.scripted.rate=400",
    "storage.seal_mib=1",
    "worker.concurrency=16",
    "broker.chunk_size=40",
)
LENGTH = {"writer": 4500, "broker": 300}
"""Two segments of the writer's calls; the broker sees nothing of that, so one is enough for it."""


def counts(victim: str, nest: Nest, folder: Path) -> Counter[str]:
    """How many calls of each kind a whole run has."""
    bus = _new_bus(victim, nest, folder)
    with ExitStack() as stack:
        seen = stack.enter_context(_begin(bus, victim, count()))
        watch = stack.enter_context(bus.watch())
        assert _ended(bus, victim, watch, 0) == 0
    bus.exact(ITEMS)
    return counted(seen)


def spread(found: Mapping[str, int], wanted: int, dice: random.Random) -> list[Point]:
    """About so many points over all kinds, each with as many as the others while it has them; a run is cut into as many
    parts, and in each part any call may be the one. Wanted all, these are all."""
    shares = dict.fromkeys(found, 0)
    while sum(shares.values()) < min(wanted, sum(found.values())):
        for kind in shares:
            shares[kind] += shares[kind] < found[kind]
    return [
        Point(kind, dice.randint(1 + part * found[kind] // share, (part + 1) * found[kind] // share))
        for kind, share in shares.items()
        for part in range(share)
    ]


def killed_at(victim: str, point: Point, nest: Nest, folder: Path) -> bool:
    """Whether the point was reached (runs differ a little: the last ones may not be). Fails if anything is wrong."""
    return _one_point(victim, kill_at(point), -signal.SIGKILL, nest, folder)


def failed_at(victim: str, point: Point, nest: Nest, folder: Path) -> bool:
    """The same, for a call that finds a broken disk."""
    return _one_point(victim, fail_at(point), DamagedStoreError.exit_code, nest, folder)


def _one_point(victim: str, flags: Sequence[str], code: int, nest: Nest, folder: Path) -> bool:
    bus = _new_bus(victim, nest, folder)
    with ExitStack() as stack:
        with _begin(bus, victim, flags, code) as seen:
            watch = stack.enter_context(bus.watch())
            reached = _ended(bus, victim, watch, code) != 0
        if not reached:
            assert _may_be_hidden(seen.read_text(errors="replace")), f"it went on as if nothing had failed: {seen}"
            bus.exact(ITEMS)
            return False
        before = durable(bus.store) if victim == "writer" and (bus.store / "manifest.sqlite").exists() else {}
        for role in ROLES:
            if role not in bus.running or bus.running[role].code is not None:
                bus.start(role)
            if role == "broker":
                _await_broker(bus)
        status = watch.until(f"all is done and sealed; {bus.told()}", lambda s: s.finished and s.sealed)
        assert status.results_refused == 0, status
        bus.end()
        untouched(before, bus.exact(ITEMS))
    return True


def _may_be_hidden(seen: str) -> bool:
    """SQLite does not tell of a directory that it could not flush (we flush it after it), of what fails while a
    database is closed at the end (its log keeps all), and of a file that it had just flushed."""
    before, failure, _ = seen.partition("(INJECTED)")
    if not failure:
        return True
    *earlier, last = (line for line in before.splitlines() if not line.startswith("write("))
    call = last.partition(")")[0]
    again = bool(earlier) and earlier[-1].startswith(call)
    return call.startswith("fdatasync") and ("--- SIGTERM" in before or ".sqlite" not in call or again)


def _new_bus(victim: str, nest: Nest, folder: Path) -> Bus:
    return Bus(nest, folder, *SETTINGS, f"captions.scripted.length={LENGTH[victim]}")


@contextmanager
def _begin(bus: Bus, victim: str, flags: Sequence[str], code: int = 0) -> Iterator[Path]:
    """All daemons, the broker first, so that nobody has to dial twice; the victim is traced."""
    with ExitStack() as stack:
        for role in ROLES:
            daemon = bus.start(role, stopped=role == victim)
            if role == victim:
                seen = stack.enter_context(traced(daemon, *flags))
            if role == "broker":
                _await_broker(bus, code)
        yield seen


def _await_broker(bus: Bus, code: int = 0) -> None:
    broker = bus.running["broker"]
    until("the broker serves or is dead", lambda: "broker.serves" in broker.said or broker.code is not None)
    assert broker.code in (None, code), broker.said


def _ended(bus: Bus, victim: str, watch: Watch, code: int) -> int | None:
    """How the victim ended: killed in mid-run, or asked to stop when all was done."""
    daemon = bus.running[victim]

    def over() -> bool:
        status = watch.look()
        return daemon.code is not None or bool(status and status.finished and status.sealed)

    until(lambda: f"it is killed, or all is done; {bus.told()}", over)
    if daemon.code is None:
        for role in reversed(ROLES):
            bus.running[role].signal(signal.SIGTERM)
            bus.running[role].ends(0, *([code] if role == victim else []))
    assert daemon.code in (0, code), daemon.said
    return daemon.code
