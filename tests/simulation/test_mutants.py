"""Faults planted into a copy of the source, each of which one of its named seeds must notice.

A simulation that passes proves something only if it fails when the code is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.mutants import MUTANTS, Mutant
from simulation.mutants_feeding import FEEDING
from simulation.mutants_redo import REDO

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "cfbus"
SECONDS = 400
SCRIPT = """
import sys, cfbus
from simulation.run import run_seeds
assert cfbus.__file__.startswith(sys.argv[1]), cfbus.__file__
for seed in map(int, sys.argv[3:]):
    failed = run_seeds(seed, 1)[1]
    if failed and sys.argv[2] in failed[seed]:
        print("noticed by", seed, failed)
        break
"""


def plant(mutant: Mutant, folder: Path) -> Path:
    """A copy of what the simulation imports, with the mutant's edits. Each must apply exactly once."""
    package = folder / "cfbus"
    package.mkdir(parents=True)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE / name, package / name)
    for name in ("bus", "core"):
        shutil.copytree(PACKAGE / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        path = package / edit.file
        source = path.read_text()
        assert source.count(edit.old) == 1, f"{mutant.name}: {edit.old!r} occurs {source.count(edit.old)} times"
        path.write_text(source.replace(edit.old, edit.new))
    return package


@pytest.mark.parametrize("mutant", [*MUTANTS, *FEEDING, *REDO], ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    package = plant(mutant, tmp_path)
    path = os.pathsep.join([str(tmp_path), str(TESTS)])
    command = [sys.executable, "-c", SCRIPT, str(package), mutant.symptom, *map(str, mutant.seeds)]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    # Not run from here: an interpreter with -c looks for modules where it stands first.
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "noticed by" in done.stdout, f"none of the seeds {mutant.seeds} notices it: choose others with run.py"
