"""What a real run asks of the kernel, compared with what the units in ``systemd/`` let it ask.

libzmq aborts when it may not call sched_setscheduler, so a filter that is a little tighter is no small thing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes.tables import exact_pictures, make_pictures
from test_units import allowed
from test_units import analyze as analyze

MISSING = [name for name in ("strace", "systemd-analyze") if shutil.which(name) is None]


def test_the_filters_let_a_whole_run_through(tmp_path: Path, analyze: Path) -> None:
    if MISSING:
        assert os.environ.get("CI") != "true", f"missing: {MISSING} (Debian: apt install strace systemd)"
        pytest.skip(f"missing: {MISSING}")
    pictures, out, counted = tmp_path / "pictures", tmp_path / "out", tmp_path / "calls"
    make_pictures(pictures, 0, 40)
    command = [sys.executable, "-m", "cfbus.tools.main", "run", str(pictures), "--out", str(out)]
    strace = ["strace", "-f", "-qq", "-c", "-U", "name", "-o", str(counted)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    exact_pictures(out, pictures, ["caption"])
    called = {line.strip() for line in counted.read_text().splitlines()} - {"", "total", "syscall"}
    called = {name for name in called if not name.startswith("-")}
    assert {"execve", "fsync", "epoll_wait", "setpriority", "sched_setscheduler"} <= called, (
        "this is not how a run looks"
    )
    only_as_root = {"fchown"}  # SQLite gives its files to the owner of the database
    for name in ("cfbus-broker", "cfbus-writer", "cfbus-gpu@0"):
        assert called - only_as_root - allowed(analyze, name) == set()
