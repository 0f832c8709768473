"""Child processes of `cfbus run`: started, awaited, restarted when they die, ended in order.

Each child has a pipe by which it says that it is ready, and one by which it notices that we are gone; it runs in a
session of its own, so that Ctrl-C reaches us alone; it holds our lock, so that another run waits for it.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cfbus.errors import CfbusError, TryAgainError

READY_SECONDS = 60.0
MAX_RESTARTS = 10
RESTART_WINDOW_SECONDS = 120.0
FINAL_CODES = frozenset({2, 74, 77, 78})
"""Starting again does not help against these."""
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT|^\{|^    \|")


@dataclass(eq=False)
class Child:
    """One daemon."""

    name: str
    module: str
    arguments: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    ready: int | None = None
    started: list[float] = field(default_factory=list)
    log_start: int = 0  # what is before this in its log was said by an earlier process

    def last_words(self) -> str:
        """What it said to a person at its end: the lines after its log."""
        lines = self.log.read_bytes()[self.log_start :].decode(errors="replace").splitlines()
        words: list[str] = []
        for line in reversed(lines):
            if _LOG_LINE.match(line):
                break
            words.insert(0, line.strip())
        return " ".join(words)[-2000:]


class Family:
    """All children of one run."""

    def __init__(self, lock_fd: int, log_folder: Path) -> None:
        self._lock_fd = lock_fd
        self._log_folder = log_folder
        self._alive_read, self._alive_write = os.pipe()
        os.set_inheritable(self._alive_write, False)
        self._children: dict[str, Child] = {}

    def start(self, name: str, module: str, arguments: Sequence[str]) -> Child:
        """Start a daemon; ``await_ready`` says when it serves."""
        child = Child(name, module, arguments, self._log_folder / f"{name}.log")
        self._children[name] = child
        self._spawn(child)
        return child

    def _spawn(self, child: Child) -> None:
        ready_read, ready_write = os.pipe()
        command = [
            sys.executable, "-P", "-m", child.module, *child.arguments,
            "--ready-fd", str(ready_write), "--parent-fd", str(self._alive_read),
        ]  # fmt: skip
        with child.log.open("ab") as log:
            child.log_start = log.tell()
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_write, self._alive_read, self._lock_fd),
                start_new_session=True,
            )
        os.close(ready_write)
        if child.ready is not None:
            os.close(child.ready)
        child.ready = ready_read
        child.started.append(time.monotonic())

    def await_ready(self, child: Child) -> Mapping[str, str | int]:
        """Wait until the child serves. Raises what it died of."""
        assert child.ready is not None
        readable, _, _ = select.select([child.ready], [], [], READY_SECONDS)
        if not readable:
            raise TryAgainError(f"{child.name} did not start within {READY_SECONDS:.0f} s.", f"Look at {child.log}.")
        with os.fdopen(child.ready, "r") as pipe:
            child.ready = None
            line = pipe.readline()
        if not line:
            raise self._died(child)
        facts: dict[str, str | int] = json.loads(line)
        return facts

    def _died(self, child: Child) -> CfbusError:
        assert child.process is not None
        code = child.process.wait()
        error = CfbusError(
            child.last_words() or f"{child.name} ended with exit code {code}.", f"Its log is {child.log}."
        )
        error.exit_code = code if code > 0 else CfbusError.exit_code
        return error

    def look_after(self) -> list[str]:
        """Start again those that died; returns what happened. Raises when that would not help."""
        news = []
        for child in self._children.values():
            process = child.process
            if process is None or process.poll() is None:
                continue
            code = process.returncode
            recent = [at for at in child.started if time.monotonic() - at < RESTART_WINDOW_SECONDS]
            if code in FINAL_CODES or len(recent) >= MAX_RESTARTS:
                raise self._died(child)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            news.append(f"{child.name} {how}; starting it again")
            self._spawn(child)
        return news

    def terminate(self, names: Sequence[str]) -> None:
        """Ask these to drain."""
        for child in self._named(names):
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)

    def await_end(self, names: Sequence[str], seconds: float) -> bool:
        """Wait for these to end; whether all did."""
        deadline = time.monotonic() + seconds
        for child in self._named(names):
            try:
                if child.process is not None:
                    child.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                return False
        return True

    def forget(self, names: Sequence[str]) -> None:
        """Do not start these again."""
        for child in self._named(names):
            if child.process is not None and child.process.poll() is None:
                child.process.kill()
                child.process.wait()
            self._children.pop(child.name)

    def _named(self, names: Sequence[str]) -> list[Child]:
        return [self._children[name] for name in names if name in self._children]

    @property
    def names(self) -> list[str]:
        """Those that are looked after."""
        return list(self._children)

    def pid(self, name: str) -> int:
        """The process id of a child."""
        process = self._children[name].process
        assert process is not None
        return process.pid

    def close(self) -> None:
        """End what still runs, at once."""
        self.forget(self.names)
        os.close(self._alive_read)
        os.close(self._alive_write)
