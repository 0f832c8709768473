"""`make bench`: how many captions a second become durable, at what cost, and how near that is to the limit.

No test: nothing is asserted about time. Every run is a real `cfbus run` of real daemons, with CURVE, fsync and parquet
on; see docs/performance.md for what each figure means. Writes its figures as JSON into bench-out/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # What is measured is the tree that this file lies in, whatever else is installed.
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import cores, installed, listing, running, scale, tables  # noqa: E402
from benchmarks.figures import Billion, Extras, Limit, Memory, Report, Run  # noqa: E402
from benchmarks.machine import machine  # noqa: E402

ITEMS, QUICK_ITEMS = 400_000, 40_000
ROUNDS = 3
PAGE = ROOT / "docs" / "performance.md"
START_AND_STOP_SECONDS = 7
GUESSED_RATE = 40_000
EXTRA_SECONDS = 260


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    flags = _flags(arguments)
    if flags.tables_of:
        report = Report.model_validate_json(flags.tables_of.read_text(encoding="utf-8"))
    else:
        items = flags.items or (QUICK_ITEMS if flags.quick else ITEMS)
        rounds = flags.rounds or (1 if flags.quick else ROUNDS)
        report = _measure(items, rounds, sorted(set(flags.workers)), extras=flags.all)
    sys.stdout.write(f"\n{tables.whole(report)}\n")
    if flags.write_docs:
        tables.write_docs(report, PAGE)
        sys.stdout.write(f"\nWritten to {PAGE.relative_to(ROOT)}.\n")
    return 0


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description="Measure durable captions per second.")
    parser.add_argument("--items", type=int, help=f"captions in a run ({ITEMS})")
    parser.add_argument("--rounds", type=int, help=f"rounds ({ROUNDS}); in each, every kind of run once")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="how many workers (1 2)")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of {QUICK_ITEMS} captions, to see that it works"
    )
    parser.add_argument("--all", action="store_true", help="also the broker's core, large datasets, listings, sizes")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--tables-of", type=Path, metavar="JSON", help="measure nothing, take an earlier run's figures")
    return parser.parse_args(arguments)


def _measure(items: int, rounds: int, workers: Sequence[int], *, extras: bool) -> Report:
    seconds = 2 * rounds * len(workers) * (START_AND_STOP_SECONDS + items / GUESSED_RATE)
    minutes = (seconds + EXTRA_SECONDS * extras) / 60
    sys.stdout.write(
        f"{rounds} rounds of {items:,} captions each with {' and '.join(map(str, workers))} workers and as the limit: "
        f"about {minutes:.0f} minutes if nothing else is going on here. The load is now {os.getloadavg()[0]:.1f}.\n"
    )
    now = datetime.now(UTC)
    out = ROOT / "bench-out"
    work = out / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    runs: list[Run] = []
    limits: list[Limit] = []
    try:
        for number in range(1, rounds + 1):
            for count in workers:
                runs.append(running.run(items, count, work / "run"))
                limits.append(_limit(items, work / "limit"))
                rates = f"{runs[-1].durable:,.0f} durable a second, the limit {limits[-1].rate:,.0f}"
                _say(f"round {number}, {count} worker{'s' if count > 1 else ''}: {rates}")
                _same(work / "run", work / "limit")
                shutil.rmtree(work)
                work.mkdir()
        report = Report(
            when=now.strftime("%Y-%m-%d %H:%M UTC"), items=items, machine=machine(ROOT, out), runs=runs, limits=limits,
            extras=_extras(work) if extras else None,
        )  # fmt: skip
    finally:
        shutil.rmtree(work, ignore_errors=True)
    path = out / f"{now.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _say(f"figures: {path.relative_to(ROOT)}")
    return report


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _child(module: str, *arguments: str | Path) -> str:
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True).stdout


def _limit(items: int, folder: Path) -> Limit:
    folder.mkdir()
    return Limit.model_validate_json(_child("limit", str(items), folder))


def _same(run: Path, limit: Path) -> None:
    """The limit would be none if it wrote something else than the product."""
    problem = running.difference(run / "captions", limit / "captions.parquet")
    if problem:
        raise running.BenchError(f"the limit's rows are not the product's: {problem}")


def _extras(work: Path) -> Extras:
    billion = [Billion.model_validate_json(_child("scale", *map(str, case))) for case in scale.CASES]
    memory = [Memory.model_validate_json(_child("cores", *map(str, case))) for case in cores.MEMORY_CASES]
    return Extras(
        core=cores.measure_core(), memory=memory, catch_up=scale.measure_catch_up(work), billion=billion,
        listings=listing.measure_all(work / "listing", _child), help_seconds=installed.help_seconds(),
        packages=installed.packages(),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
