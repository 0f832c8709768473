"""strace over one daemon: count its system calls, or let something happen at the N-th of one kind.

Only the daemon's main thread is followed, which is the one that writes; its children live on undisturbed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chaos.nest import Daemon
from processes.asking import needs
from processes.support import PATIENCE_SECONDS, until

KINDS = ("pwrite64", "fdatasync", "fsync", "rename", "unlink", "write", "ftruncate")
"""What may reach the disk. SQLite writes with the first two; ``write`` is also what wakes threads and fills logs."""
FLUSHES = ("fdatasync", "fsync")
TRACEE = re.compile(r"^TracerPid:\t([1-9]\d*)$", re.MULTILINE)


@dataclass(frozen=True)
class Point:
    """The ``number``-th call of a kind, from when the daemon begins."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@cache
def missing() -> str:
    """Why nothing can be traced here; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt install strace)"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


def need_strace() -> None:
    """Skip the test where there is none; fail where everything should be there."""
    if missing():
        needs(missing())


@contextmanager
def traced(daemon: Daemon, *flags: str) -> Iterator[Path]:
    """Follow a daemon that waits for SIGCONT, and let it begin. The block gets the file with what strace saw."""
    seen, state = daemon.log.with_suffix(".strace"), Path(f"/proc/{daemon.pid}/status")
    until("it waits for SIGCONT", lambda: "\nState:\tT" in state.read_text())
    with daemon.log.with_suffix(".strace-said").open("w") as said:
        tracer = subprocess.Popen(["strace", "-q", "-p", str(daemon.pid), "-o", str(seen), *flags], stderr=said)
    try:
        until("strace is attached", lambda: TRACEE.search(state.read_text()))
        os.kill(daemon.pid, signal.SIGCONT)
        yield seen
    finally:
        # It ends with the daemon; if that lives on, it lives on without it.
        if daemon.code is None:
            tracer.terminate()
        tracer.wait(PATIENCE_SECONDS)


def kill_at(point: Point) -> tuple[str, ...]:
    """kill -9 instead of this call."""
    return (f"--trace={point.kind}", f"--inject={point.kind}:signal=SIGKILL:when={point.number}")


def fail_at(point: Point, error: str = "EIO") -> tuple[str, ...]:
    """This call fails, once: if it is tried again, that succeeds."""
    what = f"--inject={point.kind}:error={error}:when={point.number}"
    return (f"--trace={','.join(KINDS)}", "--decode-fds=path", what)


def count() -> tuple[str, ...]:
    """Only look."""
    return (f"--trace={','.join(KINDS)}",)


def counted(seen: Path) -> Counter[str]:
    """How many calls of each kind there were."""
    return Counter(line.partition("(")[0] for line in seen.read_text(errors="replace").splitlines() if "(" in line)
