"""Seconds of the clock and of the processor, of this process or of another, and a file read plainly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Spent:
    """Seconds of the clock and of the processor."""

    wall = cpu = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """What this process spends in the meantime."""
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


def plain(path: Path) -> int:
    """All bytes of a file, as they lie; how many."""
    total = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            total += len(data)
    return total


def elsewhere(module: str, *arguments: str | Path) -> list[float]:
    """The numbers that a module of these benchmarks prints as JSON in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    numbers: list[float] = json.loads(said.splitlines()[-1])
    return numbers
