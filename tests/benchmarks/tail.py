"""How near a run of eight real workers, the fastest thirty times as fast as the slowest, comes to the best of all ends.

    .venv/bin/python tests/benchmarks/tail.py --seconds 30

The made-up captions take no time of the processor, so that a few cores are enough. Prints each worker's share; see
docs/performance.md for what the figures mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from processes import unequal  # noqa: E402
from processes.support import Nursery  # noqa: E402
from processes.tables import exact_scripted  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(prog="tail.py", description="Measure the end of a run of unequal workers.")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the best of all runs would take (30)")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "said").mkdir()
        nursery = Nursery(folder / "said")
        try:
            shape = unequal.run(
                nursery, folder / "bus", flags.seconds, lambda store, items: exact_scripted(store, items, ["caption"])
            )
        finally:
            nursery.close()
    sys.stdout.write("\n".join(shape.lines()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
