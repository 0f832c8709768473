"""Run simulated seeds: ``python tests/simulation/run.py --seeds 10000``, or one: ``--seed 7 --story``.

Ends with 1 when a seed failed or something was never seen, and prints how to replay what failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.coverage import required, unseen
from simulation.world import FED_FROM, World

BLOCK = 10
ENOUGH_SEEDS = 300
"""With fewer, what was not seen says nothing."""


def replay(seed: int) -> str:
    """The command that shows what happens in a seed."""
    return f".venv/bin/python tests/simulation/run.py --seed {seed} --story"


def run_seeds(first: int, count: int) -> tuple[Counter[str], dict[int, str]]:
    """Run them one after the other. Returns what was seen and the reasons of the seeds that failed."""
    seen: Counter[str] = Counter()
    failed: dict[int, str] = {}
    for seed in range(first, first + count):
        world = World(seed)
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - every way to fail is a finding
            failed[seed] = f"{type(error).__name__}: {str(error)[:500]}"
        seen += world.seen
        seen["seeds"] += 1
    return seen, failed


def _show(seed: int, *, story: bool) -> int:
    world = World(seed, whole_story=story)
    try:
        world.run()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return 1
    finally:
        print(world.plan)
        print("\n".join(world.story if story else list(world.story)[-5:]))
    return 0


def _blocks(first: int, count: int) -> Iterator[tuple[int, int]]:
    """The seeds asked for, and half as many of those with feeders."""
    for start in range(first, first + count, BLOCK):
        yield start, min(BLOCK, first + count - start)
    if first < FED_FROM:
        yield from _blocks(FED_FROM + first, count // 2)


def _run_all(first: int, count: int, jobs: int) -> int:
    seen: Counter[str] = Counter()
    failed: dict[int, str] = {}
    began = time.monotonic()
    blocks = list(_blocks(first, count))
    total = sum(size for _, size in blocks)
    with ProcessPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(run_seeds, *block) for block in blocks]):
            more, bad = done.result()
            seen += more
            for seed, why in bad.items():
                print(f"\nseed {seed}: {why}\n  {replay(seed)}", flush=True)
            failed |= bad
            print(f"\r{seen['seeds']}/{total} seeds, {len(failed)} failed", end="", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    for name in sorted({*required(fed=True), *seen}):
        print(f"{seen[name]:>10}  {name}")
    missing = unseen(seen, fed=True) if count >= ENOUGH_SEEDS else []
    for name in missing:
        print(f"never seen: {name}")
    return 1 if failed or missing else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--story", action="store_true", help="tell what happened in it")
    options = parser.parse_args()
    if options.seed is not None:
        return _show(options.seed, story=options.story)
    return _run_all(options.first, options.seeds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
