"""How cost grows with what there is more of: workers, files, items, peers, characters, slots.

Each curve is a few runs whose only difference is that; those that take real processes are run again in each round, in
turns, and the median counts. Nothing here knows how curves are shown.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks import listing, peers, running, scale
from benchmarks.figures import Billion, Core, Growth, Growths, Listing, Run
from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[2]
RUN_COSTS = ("CPU µs a caption, all", "broker", "writer", "a worker", "captions a second, durable")
RUN_ITEMS, RUN_BYTES = 200_000, 200_000_000
SHARD_ITEMS = 10_000
CORE_SHARD_ITEMS = 100_000
LEASES = 500
PEER_SECONDS = 8.0
Child: TypeAlias = Callable[..., str]
Say: TypeAlias = Callable[[str], None]


def _costs(run: Run, slots: int = 1) -> list[float]:
    cpu = run.cpu_us
    parts = [sum(cpu.values()), cpu["broker"], cpu["writer"], cpu["worker"]]
    return [*(part / slots for part in parts), run.durable * slots]


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [median(values) for values in zip(*rounds, strict=True)]


def _runs(name: str, grows: str, cases: Sequence[int], rounds: int, measure: Callable[[int], list[float]]) -> Growth:
    """Each case once in each round."""
    found: dict[int, list[list[float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(measure(case))
    rows = [(float(case), *_medians(found[case])) for case in cases]
    return Growth(name=name, grows=grows, costs=RUN_COSTS, rows=rows)


def _fresh(work: Path, act: Callable[[Path], Run]) -> Run:
    out = work / "run"
    try:
        return act(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def workers(work: Path, rounds: int) -> Growth:
    """One to eight, on however many cores there are."""

    def measure(count: int) -> list[float]:
        return _costs(_fresh(work, lambda out: running.run(RUN_ITEMS, count, out)))

    return _runs("workers", "workers", (1, 2, 4, 8), rounds, measure)


def characters(work: Path, rounds: int) -> Growth:
    """Captions of 100 to 8,000, about as many bytes in each run."""

    def measure(chars: int) -> list[float]:
        items = min(RUN_ITEMS, RUN_BYTES // chars)
        return _costs(_fresh(work, lambda out: running.run(items, 1, out, chars=chars)))

    return _runs("characters", "characters a caption", (100, 400, 1600, 8000), rounds, measure)


def slots(work: Path, rounds: int) -> Growth:
    """As many captions in each run."""

    def measure(count: int) -> list[float]:
        names = [f"slot_{n}" for n in range(count)]
        return _costs(_fresh(work, lambda out: running.run(RUN_ITEMS // count, 1, out, slots=names)), count)

    return _runs("slots", "slots", (1, 4, 16), rounds, measure)


def files(work: Path, child: Child) -> Growth:
    """A folder with a thousand to a million images, listed."""
    rows = []
    for count in (10**3, 10**4, 10**5, 10**6):
        folder = work / f"files-{count}"
        listing.make_files(folder, count)
        found = Listing.model_validate_json(child("listing", "folder", folder))
        rows.append((float(count), found.seconds, found.cpu_seconds, found.seconds / found.bare_seconds))
        shutil.rmtree(folder)
    costs = ("s to list", "CPU s", "times a bare scandir")
    return Growth(name="a folder", grows="images", costs=costs, rows=rows)


def items(child: Child) -> Growth:
    """A million to a billion items in shards: what the cores of broker and writer take when all is listed and done."""
    rows = []
    for count in (10**6, 10**7, 10**8, 10**9):
        broker, writer = (
            Billion.model_validate_json(child("scale", part, SHARD_ITEMS, count)) for part in ("broker", "writer")
        )
        rates = Core.model_validate_json(child("cores", "rates", LEASES, count // CORE_SHARD_ITEMS))
        rows.append(
            (float(count), broker.done_mib, writer.done_mib, broker.seconds, writer.seconds, 1e6 / rates.grants,
             1e6 / rates.commits_settled)
        )  # fmt: skip
    costs = ("MiB, broker", "MiB, writer", "s until the broker knows", "s, the writer", "CPU µs a lease",
             "CPU µs a result that is settled")  # fmt: skip
    return Growth(name="items", grows="items", costs=costs, rows=rows)


def restart(work: Path) -> Growth:
    """Real processes started on a store with ten thousand to a million scattered ranges done."""
    rows = []
    for ranges in (10**4, 10**5, 10**6):
        folder = work / f"restart-{ranges}"
        found = scale.measure_catch_up(folder, ranges)
        rows.append((float(ranges), found.first_lease_seconds, sum(found.cpu_seconds.values()),
                     found.peak_mib["broker"], found.peak_mib["writer"]))  # fmt: skip
        shutil.rmtree(folder)
    costs = ("s to the first lease", "CPU s until then", "MiB, broker", "MiB, writer")
    return Growth(name="a restart", grows="ranges done", costs=costs, rows=rows)


def connections() -> Growth:
    """Ten to five thousand peers on one broker."""
    rows = []
    for count in (10, 100, 1000, 5000):
        found = peers.measure(count, PEER_SECONDS, watched=False)
        rows.append((float(count), found.join_seconds, found.kib_each, 100 * found.heartbeat_cores, found.back_seconds))
    costs = ("s until all have joined", "KiB each", "% of a core for heartbeats", "s until all are back")
    return Growth(name="peers", grows="peers", costs=costs, rows=rows)


def measure(work: Path, out: Path, child: Child, rounds: int, say: Say) -> Growths:
    """All curves."""
    when, load = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", os.getloadavg()[1]
    curves = []
    for curve in _all(work, child, rounds):
        say(f"{curve.name}: {', '.join(f'{row[0]:,.0f}: {row[1]:.3g}' for row in curve.rows)} {curve.costs[0]}")
        curves.append(curve)
    return Growths(when=when, machine=machine(ROOT, out), load=load, curves=curves)


def _all(work: Path, child: Child, rounds: int) -> Iterator[Growth]:
    yield workers(work, rounds)
    yield characters(work, rounds)
    yield slots(work, rounds)
    yield files(work, child)
    yield items(child)
    yield restart(work)
    yield connections()
