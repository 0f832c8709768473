"""How many files a slow run leaves and how old what a reader lacks is: a real run, looked at through `cfbus.open`.

    .venv/bin/python tests/benchmarks/freshness.py --seal-seconds 5 --minutes 30

No test: what should come out is in docs/formats.md, and tests/core/test_pace.py holds the rule to it on a simulated
clock. A caption's age is counted from when the broker received it to the first look that sees it.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc

import cfbus
from cfbus.core.pace import GROWTH
from cfbus.errors import UsageError
from cfbus.store.view import View

RATE = 20
LOOK_SECONDS = 0.5
GIVE_UP_SECONDS = 120


def main() -> int:
    """Run it, and say each minute what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seal-seconds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freshness-") as folder:
        out = Path(folder) / "out"
        command = [
            sys.executable, "-m", "cfbus.tools.main", "run", "--out", str(out), "--engine", "scripted",
            "--workers", "1", "--set", "dataset.source=scripted", "--set", f"captions.scripted.rate={RATE}",
            "--set", f"dataset.items={int(flags.minutes * 60 * RATE)}",
            "--set", f"storage.seal_seconds={flags.seal_seconds}",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(os.environ))
        try:
            _watch(process, out, flags.seal_seconds, time.monotonic() + flags.minutes * 60 + GIVE_UP_SECONDS)
        finally:
            process.kill()
            process.wait()
    return 0


def _watch(process: subprocess.Popen[bytes], out: Path, seconds: int, until: float) -> None:
    sys.stdout.write("minute  files  sqrt(2*growth*t/seconds)  oldest caption that was not seen, s\n")
    began, minute, oldest, position = time.time(), 0, 0.0, 0
    while process.poll() is None and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        try:
            view = cfbus.open(out)
        except UsageError:
            continue  # it is not there yet
        if view.position > position:
            oldest = max(oldest, time.time() - _first_new(view, position))
            position = view.position
        if time.time() - began >= 60 * (minute + 1):
            minute += 1
            _say(f"{minute:6}", view, seconds, time.time() - began, oldest)
            oldest = 0.0
    _say(f"end, {process.poll()}", cfbus.open(out), seconds, time.time() - began, oldest)


def _first_new(view: View, position: int) -> float:
    """When the first result after this position was received, in seconds since 1970."""
    new = view.arrow(columns=["timestamp"], filter=pc.field("commit_seq") > position)
    first: float = pc.min(new["timestamp"]).as_py().timestamp()
    return first


def _say(when: str, view: View, seconds: int, elapsed: float, oldest: float) -> None:
    predicted = math.sqrt(2 * GROWTH * elapsed / seconds)
    sys.stdout.write(f"{when}  {len(view.files()):5}  {predicted:24.0f}  {oldest:10.1f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
