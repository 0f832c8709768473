"""`make bench-quick`: is cfbus still as near to this machine's limit as it was?

    python tests/benchmarks/quick.py [--store]

A few short runs, each followed by the limit and by the stages' own limits. What is compared with the stored ratios is
never a time, only ratios of one run, which another machine or a busy one changes little. A drop by more than half
that is seen three times fails. ``--store`` puts today's ratios in place of the stored ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import bench, layout, stage_tables  # noqa: E402
from benchmarks.figures import Report  # noqa: E402
from benchmarks.running import BenchError  # noqa: E402

STORED = Path(__file__).with_name("ratios.json")
ITEMS, STAGE_ITEMS, ROUNDS = 100_000, 20_000, 3
LOOKS = 3
LEAST = 0.5
"""Of the stored ratio; below that it fails."""


def ratios(report: Report) -> dict[str, float]:
    """What is near its limit has a ratio near one; each is the median of all rounds."""
    pairs = list(zip(report.runs, report.limits, strict=True))
    found = {
        "captions durable in a second, of the limit's": median(run.durable / one.rate for run, one in pairs),
        "captions sealed in a second, of the limit's": median(run.sealed / one.rate for run, one in pairs),
        "the limit's CPU, of all processes'": median(one.cpu_us / sum(run.cpu_us.values()) for run, one in pairs),
    }
    for bound in stage_tables.bounds(report, report.runs):
        found[f"its own limit's CPU, of that of {bound.name}"] = bound.least / bound.used
    return found


def _measure() -> dict[str, float]:
    with bench.working("quick") as work:
        return ratios(bench.limits(ITEMS, ROUNDS, (1,), work, STAGE_ITEMS))


def better(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The best that was seen of each."""
    return {name: max(ratio, other[name]) for name, ratio in one.items()}


def dropped(now: dict[str, float], stored: dict[str, float]) -> list[str]:
    """A sentence for each ratio that has lost more than half, or that nobody measured."""
    if not stored or now.keys() != stored.keys():
        raise BenchError(f"the ratios in {STORED.name} are not those that are measured: store them with --store")
    return [
        f"{name}: {now[name]:.1%}, and {ratio:.1%} is stored"
        for name, ratio in stored.items()
        if now[name] < LEAST * ratio
    ]


def shown(now: dict[str, float], stored: dict[str, float]) -> str:
    """All of them beside the stored ones."""
    rows = [[name, f"{ratio:.1%}", f"{stored[name]:.1%}" if name in stored else ""] for name, ratio in now.items()]
    return layout.table([["ratio, the median of the rounds", "now", "stored"], *rows])


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(prog="quick.py", description="Compare ratios to the limit with the stored ones.")
    parser.add_argument("--store", action="store_true", help="keep the ratios of this run")
    flags = parser.parse_args(arguments)
    sys.stdout.write(f"{ROUNDS} short rounds, a minute. The load is now {os.getloadavg()[0]:.1f}.\n")
    now = _measure()
    stored = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
    if flags.store:
        stored = {name: round(ratio, 4) for name, ratio in now.items()}
        STORED.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    for _ in range(LOOKS - 1):
        if not dropped(now, stored):
            break
        sys.stdout.write(f"{shown(now, stored)}\nOnce more, for what others do on this machine can look like a loss.\n")
        now = better(now, _measure())
    sys.stdout.write(f"{shown(now, stored)}\n")
    problems = dropped(now, stored)
    for problem in problems:
        sys.stdout.write(f"FAILED: more than half was lost of {problem}.\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
