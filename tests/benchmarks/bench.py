"""`make bench`: what is measured of cfbus on this machine, part by part, and what the documentation says of it.

    python tests/benchmarks/bench.py [--parts limit captionflow growth tail large] [--write-docs]

No test: nothing is asserted about time. Each part runs what it compares in turns, writes its figures as JSON into
bench-out/, and makes its tables in docs/performance.md of nothing else. See there for what each figure means.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # What is measured is the tree that this file lies in, whatever else is installed.
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import (  # noqa: E402
    cores,
    growth,
    growth_tables,
    installed,
    layout,
    listing,
    running,
    scale,
    stages,
    tables,
    tail,
    tail_tables,
    versus,
    versus_cases,
    versus_tables,
)
from benchmarks.figures import (  # noqa: E402
    Billion,
    Ends,
    Extras,
    Figures,
    Growths,
    Large,
    Limit,
    Memory,
    Report,
    Run,
    Stage,
)
from benchmarks.machine import machine  # noqa: E402
from benchmarks.versus_figures import Versus  # noqa: E402

ITEMS, STAGE_ITEMS = 400_000, 200_000
ROUNDS = 3
EXIT_STOPPED = 130
WORKERS = (1, 2)
PAGE = ROOT / "docs" / "performance.md"
OUT = ROOT / "bench-out"


@dataclass(frozen=True)
class Part:
    """A part of the harness: how it is measured, shown, and how long it takes with these flags."""

    measure: Callable[[Job], Figures]
    load: Callable[[str], Figures]
    show: Callable[[Figures], str]
    minutes: Callable[[argparse.Namespace], float]


@dataclass(frozen=True)
class Job:
    """A part that is measured now: its folder, and the file of its figures."""

    flags: argparse.Namespace
    work: Path
    path: Path

    def keep(self, report: Figures) -> None:
        """Write the figures that there are; never is half of them in the file."""
        new = self.path.with_suffix(".new")
        new.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    flags = _flags(arguments)
    if not flags.tables_of:
        minutes = sum(PARTS[name].minutes(flags) for name in flags.parts)
        _say(f"{', '.join(flags.parts)}: about {minutes:.0f} minutes. The load is now {os.getloadavg()[0]:.1f}.")
    for name in flags.parts:
        part = PARTS[name]
        report = part.load(flags.tables_of.read_text("utf-8")) if flags.tables_of else _measured(name, flags)
        text = part.show(report)
        _say(f"\n{text}\n")
        if flags.write_docs:
            layout.put(PAGE, f"<!-- {name}: begin -->", f"<!-- {name}: end -->", text)
            _say(f"Written to {PAGE.relative_to(ROOT)}.")
        if isinstance(report, Versus) and report.ended < report.planned and not flags.tables_of:
            return EXIT_STOPPED
    return 0


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description="Measure cfbus on this machine.")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="all by default")
    parser.add_argument("--items", type=int, default=ITEMS, help=f"captions in a run of the part limit ({ITEMS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of what is repeated ({ROUNDS})")
    parser.add_argument(
        "--cases", nargs="+", default=[], metavar="PATTERN",
        help="of captionflow only what a pattern fits, as 'speed/tars/*' 'kill/*/server-9'; 'none' lists all",
    )  # fmt: skip
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--tables-of", type=Path, metavar="JSON", help="measure nothing, take a part's figures")
    flags = parser.parse_args(arguments)
    if flags.tables_of and len(flags.parts) != 1:
        parser.error("--tables-of is about one part: say which one with --parts")
    if flags.cases and not versus_cases.one_round(flags.cases):
        parser.error("--cases: no pattern fits any of\n  " + "\n  ".join(versus_cases.names()))
    return flags


def _measured(name: str, flags: argparse.Namespace) -> Figures:
    path = OUT / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}.json"
    with working(name) as work:
        job = Job(flags, work, path)
        report = PARTS[name].measure(job)
    job.keep(report)
    _say(f"figures: {path.relative_to(ROOT)}")
    return report


@contextmanager
def working(name: str) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    work = OUT / f"work-{name}-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def child(module: str, *arguments: object) -> str:
    """What a module of these benchmarks prints in a process of its own."""
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True).stdout


# ---------------------------------------------------------------------- against the limit


def limits(items: int, rounds: int, workers: Sequence[int], work: Path, stage_items: int = STAGE_ITEMS) -> Report:
    """Runs of the product, each followed by the limit, and in each round all stages by themselves."""
    now, load = datetime.now(UTC), os.getloadavg()[1]
    runs: list[Run] = []
    found: list[Limit] = []
    least: list[Stage] = []
    for number in range(1, rounds + 1):
        for count in workers:
            runs.append(running.run(items, count, work / "run"))
            found.append(_limit(items, work / "limit"))
            rates = f"{runs[-1].durable:,.0f} durable a second, the limit {found[-1].rate:,.0f}"
            _say(f"round {number}, {count} worker{'s' if count > 1 else ''}: {rates}")
            _same(work / "run", work / "limit")
            shutil.rmtree(work)
            work.mkdir()
        least += [_stage(name, stage_items, work / name) for name in stages.STAGES]
    return Report(
        when=f"{now:%Y-%m-%d %H:%M} UTC", items=items, machine=machine(ROOT, OUT), runs=runs, limits=found,
        stages=least, load=load,
    )  # fmt: skip


def _limit(items: int, folder: Path) -> Limit:
    folder.mkdir()
    return Limit.model_validate_json(child("limit", items, folder))


def _stage(name: str, items: int, folder: Path) -> Stage:
    folder.mkdir()
    return Stage.model_validate_json(child("stages", name, items, folder))


def _same(run: Path, limit: Path) -> None:
    """The limit would be none if it wrote something else than the product."""
    problem = running.difference(run / "captions", limit / "captions.parquet")
    if problem:
        raise running.BenchError(f"the limit's rows are not the product's: {problem}")


# ---------------------------------------------------------------------- the parts


def _part_limit(job: Job) -> Report:
    return limits(job.flags.items, job.flags.rounds, WORKERS, job.work)


def _part_captionflow(job: Job) -> Versus:
    return versus.measure(OUT, job.work, job.flags.rounds, job.flags.cases, job.keep, _say)


def _part_growth(job: Job) -> Growths:
    return growth.measure(job.work, OUT, child, job.flags.rounds, _say)


def _part_tail(job: Job) -> Ends:
    return tail.measure(job.work, OUT, child, job.flags.rounds, _say)


def _part_large(job: Job) -> Large:
    now, load = datetime.now(UTC), os.getloadavg()[1]
    billion = [Billion.model_validate_json(child("scale", *case)) for case in scale.CASES]
    memory = [Memory.model_validate_json(child("cores", *case)) for case in cores.MEMORY_CASES]
    extras = Extras(
        core=cores.measure_core(), memory=memory, catch_up=scale.measure_catch_up(job.work), billion=billion,
        listings=listing.measure_all(job.work / "listing", child), help_seconds=installed.help_seconds(),
        packages=installed.packages(),
    )  # fmt: skip
    return Large(when=f"{now:%Y-%m-%d %H:%M} UTC", machine=machine(ROOT, OUT), load=load, extras=extras)


def _show_limit(report: Figures) -> str:
    assert isinstance(report, Report)
    return tables.whole(report)


def _show_captionflow(report: Figures) -> str:
    assert isinstance(report, Versus)
    return versus_tables.whole(report)


def _show_growth(report: Figures) -> str:
    assert isinstance(report, Growths)
    return growth_tables.whole(report)


def _show_tail(report: Figures) -> str:
    assert isinstance(report, Ends)
    return tail_tables.whole(report)


def _show_large(report: Figures) -> str:
    assert isinstance(report, Large)
    return tables.large(report)


PARTS = {
    "limit": Part(_part_limit, Report.model_validate_json, _show_limit, lambda flags: flags.rounds),
    "captionflow": Part(
        _part_captionflow, Versus.model_validate_json, _show_captionflow,
        lambda flags: versus_cases.minutes(flags.rounds, flags.cases),
    ),
    "growth": Part(_part_growth, Growths.model_validate_json, _show_growth, lambda _: 14),
    "tail": Part(_part_tail, Ends.model_validate_json, _show_tail, lambda flags: tail.minutes(flags.rounds)),
    "large": Part(_part_large, Large.model_validate_json, _show_large, lambda _: 5),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
