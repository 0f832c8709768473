"""How near the end of a run comes to the best of all ends: simulated, and with eight real workers, the fastest thirty
times as fast as the slowest.

The simulation says the same at each run of the same code. The made-up captions of the real workers take no time of the
processor, so that a few cores are enough.

    python -m benchmarks.tail 40000 0

prints what came of one simulated run: so many items, that seed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from benchmarks.figures import End, Ends, RealEnd
from benchmarks.machine import machine
from processes import unequal
from processes.support import Nursery
from processes.tables import exact_scripted
from simulation import tail

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = ((40_000, (0, 1, 2)), (100_000, (0, 1)))
"""Items, and the seeds with which so many are captioned."""
SECONDS = 20.0
"""How long the best of all real runs would take."""
Child: TypeAlias = Callable[..., str]
Say: TypeAlias = Callable[[str], None]


def minutes(rounds: int) -> float:
    """On two cores that are otherwise idle."""
    return sum(items * len(seeds) for items, seeds in SIMULATED) / 400_000 + rounds * (SECONDS + 10) / 60


def measure(work: Path, out: Path, child: Child, rounds: int, say: Say) -> Ends:
    """All seeds, then the real runs."""
    now, load = datetime.now(UTC), os.getloadavg()[1]
    simulated = []
    for items, seeds in SIMULATED:
        for seed in seeds:
            simulated.append(End.model_validate_json(child("tail", items, seed)))
            say(f"{items:,} items, seed {seed}: {simulated[-1].end / simulated[-1].ideal - 1:.2%} late")
    real = [_real(work / "run", say) for _ in range(rounds)]
    return Ends(when=f"{now:%Y-%m-%d %H:%M} UTC", machine=machine(ROOT, out), load=load, simulated=simulated, real=real)


def _real(folder: Path, say: Say) -> RealEnd:
    (folder / "said").mkdir(parents=True)
    # What the processes import is the tree that this file lies in.
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    nursery = Nursery(folder / "said")
    try:
        shape = unequal.run(
            nursery, folder / "bus", SECONDS, lambda store, items: exact_scripted(store, items, ["caption"])
        )
    finally:
        nursery.close()
        shutil.rmtree(folder, ignore_errors=True)
    say("\n".join(shape.lines()))
    speeds = [worker.speed for worker in shape.workers]
    return RealEnd(
        items=shape.items, ideal=shape.ideal, end=shape.end, first_to_stop=shape.first_to_stop * shape.end,
        waste=shape.waste, backups=shape.backups, workers=len(speeds), slowest=min(speeds), fastest=max(speeds),
    )  # fmt: skip


if __name__ == "__main__":
    found = tail.measure(int(sys.argv[2]), int(sys.argv[1]))
    sys.stdout.write(End.model_validate(dataclasses.asdict(found)).model_dump_json() + "\n")
