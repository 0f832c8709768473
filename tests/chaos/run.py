"""`make chaos`: kill -9 at every system call of a writer and a broker, a failure at every flush, then a storm.

``--points N`` takes a sample of N for each of the three. Ends with 1 when anything was wrong, and says what it was.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from chaos import apart, points, storm, tracing
from chaos.nest import Nest
from chaos.tracing import Point

JOBS = 4
DICE = random.SystemRandom()
POINT_SECONDS = 8.0
"""Of one, on two cores with four at a time; mostly waiting."""


@dataclass(frozen=True)
class Case:
    """One thing that happens to one daemon."""

    what: str
    point: Point
    happen: Callable[[str, Point, Nest, Path], bool]

    def __str__(self) -> str:
        return f"{self.what} {self.point}"

    def run(self, folder: Path) -> bool:
        """Whether it was reached."""
        with Nest(folder / "said") as nest:
            reached = self.happen(self.what.partition(" ")[0], self.point, nest, folder / "bus")
        shutil.rmtree(folder)  # of those that went well, or a thousand would fill the disk
        return reached


def cases(sample: int | None, folder: Path) -> list[Case]:
    """All, or a sample; after a run in which nothing happens, to count."""
    found = []
    for victim in points.VICTIMS:
        with Nest(folder / f"{victim}-said") as nest:
            calls = points.counts(victim, nest, folder / victim)
        flushes = {kind: calls[kind] for kind in tracing.FLUSHES}
        chosen = points.spread(calls, sample or sum(calls.values()), DICE)
        found += [Case(f"{victim} killed at", point, points.killed_at) for point in chosen]
        if victim == "writer":
            chosen = points.spread(flushes, sample or sum(flushes.values()), DICE)
            found += [Case("writer failed at", point, points.failed_at) for point in chosen]
    return found


def run_points(sample: int | None, folder: Path) -> bool:
    """All of them; whether all went well."""
    chosen = cases(sample, folder)
    say(f"points: {len(chosen)}, about {len(chosen) * POINT_SECONDS / JOBS / 60:.0f} minutes")
    began, reached, failed = time.monotonic(), 0, 0

    def one(numbered: tuple[int, Case]) -> tuple[Case, bool, str]:
        number, case = numbered
        try:
            return case, case.run(folder / str(number)), ""
        except AssertionError as error:
            return case, True, str(error)

    with ThreadPoolExecutor(JOBS) as pool:
        for number, (case, was_reached, problem) in enumerate(pool.map(one, enumerate(chosen)), 1):
            reached += was_reached
            failed += bool(problem)
            if problem:
                say(f"points: FAILED: {case}, logs in {folder}: {problem}")
            elif number % 50 == 0:
                say(f"points: {number} of {len(chosen)}, {failed} failed, {time.monotonic() - began:.0f} s")
    say(f"points: {reached} of {len(chosen)} reached (a run is never quite like the one before), {failed} failed")
    return not failed


def run_storm(seed: int, kills: int) -> bool:
    """The long one; whether all went well."""
    arguments = ["--seed", str(seed), "--kills", str(kills)]
    program = Path(storm.__file__)
    if apart.missing():
        say(f"storm: nothing is cut off: {apart.missing()}")
        command = [sys.executable, str(program), *arguments]
    else:
        command = apart.command(program, [*arguments, "--wired"])
    return subprocess.run(command, check=False).returncode == 0


def say(line: str) -> None:
    """At once, though nobody may be looking."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(prog="run.py", description="Kill, break, and see that nothing is lost.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the storm")
    parser.add_argument("--kills", type=int, default=1000, help="of the storm; 0: none")
    parser.add_argument("--points", type=int, help="a sample of so many instead of all; 0: none")
    flags = parser.parse_args(arguments)
    well = True
    if tracing.missing():
        say(f"points: none, {tracing.missing()}")
    elif flags.points != 0:
        folder = Path(tempfile.mkdtemp(prefix="cfbus-points-"))
        well = run_points(flags.points, folder)
    if flags.kills:
        well = run_storm(flags.seed, flags.kills) and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
