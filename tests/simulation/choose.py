"""Which seeds notice a mutant: ``.venv/bin/python tests/simulation/choose.py "part of its name" [HOW MANY SEEDS]``.

A change of the cores shuffles what a seed makes happen; then some mutant's seeds do not notice it any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from simulation.mutants import MUTANTS  # noqa: E402
from simulation.mutants_feeding import FEEDING  # noqa: E402
from simulation.mutants_redo import REDO  # noqa: E402
from simulation.test_mutants import plant  # noqa: E402
from simulation.world import FED_FROM  # noqa: E402

SCRIPT = """
import sys
from simulation.run import run_seeds
found = []
for seed in range(int(sys.argv[2]), int(sys.argv[3])):
    failed = run_seeds(seed, 1)[1]
    if failed and sys.argv[1] in failed[seed]:
        found.append(seed)
        print(seed, end=" ", flush=True)
        if len(found) == 6:
            break
"""


def main() -> None:
    """Print them, six at most for each mutant."""
    wanted, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 600
    for mutant in (each for each in (*MUTANTS, *FEEDING, *REDO) if wanted in each.name):
        first = FED_FROM if mutant in FEEDING else 0
        with tempfile.TemporaryDirectory() as folder:
            plant(mutant, Path(folder))
            print(f"{mutant.name}: ", end="", flush=True)
            path = os.pathsep.join([folder, str(TESTS)])
            environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
            command = [sys.executable, "-c", SCRIPT, mutant.symptom, str(first), str(first + count)]
            subprocess.run(command, cwd=folder, env=environment, check=False)
            print()


if __name__ == "__main__":
    main()
