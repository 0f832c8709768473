"""Records a workload, cuts the power at every point of it, and recovers from each image: ``make sim``.

    python tests/crash/run.py [--workload NAME]... [--samples N] [--most N] [--seed N] [--stop]

Prints how many images there were and what did not hold; exits with 1 if anything did not.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from crash.again import after_cuts, after_kills, kill_points  # noqa: E402
from crash.cuts import SAMPLES, Cut, cuts  # noqa: E402
from crash.recovery import recover, recover_compacted  # noqa: E402
from crash.recovery_of_applied import recover_applied  # noqa: E402
from crash.recovery_of_run import recover_run  # noqa: E402
from crash.strace import Recording, read_folder, record  # noqa: E402

import cfbus  # noqa: E402

WORKLOADS = ("store", "compacted", "applied", "store-killed", "store-killed-registry", "store-cut-again", "daemons")
HOW = {"daemons": recover_run, "compacted": recover_compacted, "applied": recover_applied}
WIDEST = 100
KILLS = 12
AGAIN = 8
"""So many recoveries of a workload are recorded."""
AGAIN_SAMPLES = 2
"""At most so many images of a cut in a recovery: there are many recoveries."""
_MEMORY = Path("/dev/shm")
# What is recorded takes the cfbus that is taken here: that of a mutant, or the one of this tree.
PLACES = {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(Path(cfbus.__file__).parents[1])])}


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for images, in memory where there is some: nothing is to survive, and there are thousands."""
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 512 << 20
    with tempfile.TemporaryDirectory(prefix="cfbus-crash-", dir=_MEMORY if usable else None) as folder:
        yield Path(folder)


def record_workload(name: str, folder: Path) -> Recording:
    """What a workload did, and that it is all that it did."""
    root = folder / name
    root.mkdir()
    command = [sys.executable, str(HERE / f"drive_{name}.py"), str(root)]
    recorded = record(command, [root], folder / f"{name}.log", PLACES)[0]
    replayed, real = recorded.end().content(), read_folder(root).content()
    different = sorted(path for path in replayed.keys() | real.keys() if replayed.get(path) != real.get(path))
    assert not different, f"the recording does not give what is on the disk: {different}"
    return recorded


@dataclass(frozen=True)
class Failure:
    """An image that the product did not recover from."""

    cut: Cut
    what: str

    def __str__(self) -> str:
        return f"the power is cut after operation {self.cut.first}..{self.cut.last}: {self.what}"


def try_cuts(name: str, chosen: Sequence[Cut], folder: Path) -> Iterator[Failure]:
    """Recover from each of these cuts of a workload."""
    how = HOW.get(name, recover)
    for number, cut in enumerate(chosen):
        root = folder / f"image-{number}"
        try:
            how(cut, root)
        except Exception as error:  # noqa: BLE001 - whatever it is, this image is not recovered from
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}".replace(str(root), "")
            yield Failure(cut, f"{what} ({Path(where.filename).name}:{where.lineno})")
        shutil.rmtree(root)


def all_cuts(name: str, folder: Path, seed: int, samples: int) -> list[Cut]:
    """The cuts of a workload, or of recoveries from it, in an order that has nothing to do with time; but first those
    disks that may be left for the longest, because the most was acknowledged meanwhile."""
    dice = random.Random(seed)
    base, then, only = [*name.split("-", 2), "", ""][:3]
    recording = record_workload(base, folder)
    match then:
        case "killed":
            found = after_kills(
                recording, kill_points(recording, KILLS, seed, only), folder, PLACES, min(samples, AGAIN_SAMPLES)
            )
        case "cut":
            first = cuts(recording, seed, samples)
            found = after_cuts(dice.sample(first, min(AGAIN, len(first))), folder, PLACES, min(samples, AGAIN_SAMPLES))
        case _:
            found = cuts(recording, seed, samples)
    dice.shuffle(found)
    widest = sorted(found, key=lambda cut: cut.first - cut.last)[:WIDEST]
    first_of_all = {id(cut) for cut in widest}
    return [*widest, *(cut for cut in found if id(cut) not in first_of_all)]


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workload", action="append", choices=WORKLOADS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--most", type=int, default=1 << 30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    wanted = parser.parse_args(arguments)
    failed = 0
    for name in wanted.workload or WORKLOADS:
        with work_folder() as folder:
            began = time.monotonic()
            chosen = all_cuts(name, folder, wanted.seed, wanted.samples)[: wanted.most]
            here = 0
            for failure in try_cuts(name, chosen, folder):
                here += 1
                if here <= 10:
                    print(f"{name}: {failure}", flush=True)
                if wanted.stop:
                    return 1
            print(f"{name}: {here} lost in {len(chosen)} power cuts ({time.monotonic() - began:.0f} s)", flush=True)
            failed += here
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
