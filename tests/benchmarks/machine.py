"""On what a benchmark ran: processor, disk, versions, revision."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from pathlib import Path

import pyarrow as pa
import zmq
from benchmarks.figures import Machine


def machine(root: Path, folder: Path) -> Machine:
    """The machine, with the file system of ``folder`` and the revision of the tree at ``root``."""
    return Machine(
        processor=_find(r"model name\s*: (.+)", "/proc/cpuinfo") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=int(_find(r"MemTotal:\s+(\d+)", "/proc/meminfo")) / (1 << 20),
        kernel=platform.release(),
        file_system=_file_system(folder),
        python=platform.python_version(),
        pyzmq=zmq.pyzmq_version(),
        libzmq=zmq.zmq_version(),
        pyarrow=pa.__version__,
        sqlite=sqlite3.sqlite_version,
        revision=_git(root, "rev-parse", "--short=12", "HEAD").strip() or "unknown",
        changed_files=len(_git(root, "status", "--porcelain").splitlines()),
    )


def _find(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found[1] if found else ""


def _file_system(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(point), kind) for point, kind in mounts if folder.absolute().is_relative_to(point)]
    return max(inside)[1] if inside else "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
