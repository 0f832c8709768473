"""Faults planted into a copy of the source, each of which the images of its workload must show.

Images prove something only if recovery fails when a flush is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crash.mutants import FLIPS, MUTANTS, Mutant
from crash.run import HERE

PACKAGE = HERE.parents[1] / "cfbus"
SECONDS = 500
MOST = 600


def plant(mutant: Mutant, folder: Path) -> None:
    """A copy of the package with the mutant's edits. Each must apply exactly once."""
    package = folder / "cfbus"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        path = package / edit.file
        source = path.read_text()
        assert source.count(edit.old) == 1, f"{mutant.name}: {edit.old!r} occurs {source.count(edit.old)} times"
        path.write_text(source.replace(edit.old, edit.new))


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    plant(mutant, tmp_path)
    command = [sys.executable, str(HERE / "run.py"), "--workload", mutant.workload, "--most", str(MOST), "--stop"]
    if mutant.workload == FLIPS:
        settings = str(PACKAGE.parent / "pyproject.toml")
        test = str(HERE / "test_cut_and_flipped.py")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", settings, test]
        command += ["-k", "closed and flips"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1, f"nothing fails: {done.stdout} {done.stderr}"
    said = done.stdout + done.stderr
    assert mutant.symptom in said, said
    assert mutant.at_once or mutant.workload == FLIPS or "the power is cut after" in done.stdout, said
