"""A short storm; `make chaos` has the long one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import apart, storm

KILLS = 30
FLAGS = ("--kills", str(KILLS), "--items", "12000", "--rate", "100")


@pytest.mark.timeout(1200)
def test_thirty_kills(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    program = Path(storm.__file__)
    arguments = ["--seed", str(seed), *FLAGS, "--folder", str(tmp_path)]
    wired = not apart.missing()
    # Without the right to make networks it storms all the same; nothing is cut off then.
    assert wired or os.environ.get("CI") != "true", apart.missing()
    command = apart.command(program, [*arguments, "--wired"]) if wired else [sys.executable, str(program), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\nAgain: {' '.join(command)}"
    assert f"seed {seed}" in done.stdout
    assert "lost 0, doubled 0" in done.stdout
