"""What the comparison needs of a side: its processes by role, and what a reader of its files sees.

Knows how processes are started, ended and watched through /proc; nothing of either side.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.processes import TICKS, peak

END_SECONDS = 30.0


@dataclass(frozen=True)
class Start:
    """How a process is started."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Setup(Protocol):
    """One side, ready to caption one case in a folder of its own."""

    @property
    def side(self) -> str:
        """Its name."""

    @property
    def servers(self) -> Mapping[str, Start]:
        """By role, in the order in which they are started."""

    @property
    def workers(self) -> Mapping[str, Start]:
        """The same."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    def ready(self) -> bool:
        """The servers take workers."""

    def leased_at(self) -> float | None:
        """When the first lease was granted, if it was."""

    def rows(self) -> int:
        """How many images a reader of the files sees captions of now."""

    def keys(self) -> list[str]:
        """The images of all rows, one for each row of an image, when all processes have ended."""

    def size(self) -> int:
        """Bytes that the captions take when all processes have ended."""

    def mend(self) -> str:
        """Do what a person would do after a crash; say what that was. Empty when there is nothing that one can do."""

    def close(self) -> None:
        """End what only reads."""


class Family:
    """The processes of a setup, by role; all are ended at the end."""

    def __init__(self, setup: Setup) -> None:
        self._starts = {**setup.servers, **setup.workers}
        self._said = setup.folder / "said"
        self._said.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.cpu: dict[str, float] = {}
        self.peak: dict[str, int] = {}

    def start(self, roles: Mapping[str, Start]) -> None:
        """Start these."""
        for role, start in roles.items():
            with (self._said / f"{role}.log").open("ab") as said:
                self._running[role] = subprocess.Popen(
                    start.command, env={**os.environ, **start.environment}, cwd=self._said.parent,
                    stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                )  # fmt: skip

    def send(self, roles: Mapping[str, Start], number: signal.Signals) -> None:
        """Send it to all of these, then wait until they have ended; who does not in time is killed."""
        for role in roles:
            self._running[role].send_signal(number)
        until = time.monotonic() + END_SECONDS
        for role in roles:
            process = self._running.pop(role)
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _kill_group(process.pid)

    def ended(self) -> list[str]:
        """The roles whose processes have ended by themselves."""
        return [role for role, process in self._running.items() if process.poll() is not None]

    def stop(self) -> None:
        """SIGTERM to workers, then to servers."""
        for role in reversed(list(self._running)):
            self.send({role: self._starts[role]}, signal.SIGTERM)

    def kill(self) -> None:
        """End all at once."""
        for role in list(self._running):
            self.send({role: self._starts[role]}, signal.SIGKILL)

    def look(self) -> dict[str, float]:
        """Seconds of the processor by kind of role so far, of each process with its children; remembers peaks."""
        used: dict[str, float] = {}
        for role, process in self._running.items():
            kind = role.partition(" ")[0]
            tree = _tree(process.pid)
            used[kind] = used.get(kind, 0.0) + sum(map(_cpu, tree))
            self.peak[kind] = max(self.peak.get(kind, 0), sum(map(peak, tree)))
        self.cpu = used
        return used


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _cpu(pid: int) -> float:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:15])) / TICKS
    return 0.0


def listens(port: int) -> bool:
    """Whether somebody takes connections on this machine's port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Generated:
    """What the stubs of a run have written down: when, and how many captions."""

    path: Path
    _offset: int = 0
    times: list[tuple[float, int]] = field(default_factory=list)
    total: int = 0

    def look(self) -> int:
        """All captions so far."""
        if self.path.exists():
            with self.path.open("rb") as log:
                log.seek(self._offset)
                data = log.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                when, captions = line.split()
                self.times.append((float(when), int(captions)))
                self.total += int(captions)
        return self.total

    def when(self, captions: int) -> float:
        """When so many had been generated."""
        so_far = 0
        for at, count in sorted(self.times):
            so_far += count
            if so_far >= captions:
                return at
        return float("inf")
