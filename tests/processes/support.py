"""Real processes of one test: started with a mark in their environment, found by it, and all ended by pid.

Knows how commands are started, watched and killed; nothing of what is in a store (see ``tables``).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import zmq

from cfbus.bus import keys, sockets
from cfbus.core.snapshot import Status, WorkersPage, WorkerView
from cfbus.tools.following import Follower

MARK = "PROCESSES_TEST_MARK"
POLL_SECONDS = 0.025
PATIENCE_SECONDS = 120.0
"""Only a failure waits so long; less would say something about the machine, where processes stand still for seconds."""
TICKS = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")


def until(what: str | Callable[[], str], look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """The first true value of ``look``; fails with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}"
        time.sleep(POLL_SECONDS)


def _read(path: Path) -> str:
    """What is in a file of /proc; nothing when its process is gone."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


@dataclass(frozen=True)
class Seen:
    """A process as /proc shows it."""

    pid: int
    parent: int
    command: tuple[str, ...]

    def cpu_seconds(self) -> float:
        """What it has used so far, with all its threads; nothing when it is gone."""
        stat = _read(Path(f"/proc/{self.pid}/stat")).rpartition(")")[2].split() or ["0"] * 13
        return (int(stat[11]) + int(stat[12])) / TICKS


@dataclass(eq=False)
class Nursery:
    """All processes of a test."""

    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    prefix: tuple[str, ...] = ()
    """What commands are started under."""
    _started: list[Command] = field(default_factory=list)

    def start(self, module: str, *arguments: str | Path) -> Command:
        """``python -m module arguments…``, in a session of its own."""
        command = Command(self, module, [str(argument) for argument in arguments], len(self._started))
        self._started.append(command)
        return command

    def alive(self) -> list[Seen]:
        """All that runs and carries the mark, whoever started it."""
        mark = f"{MARK}={self.mark}".encode()
        seen = []
        for folder in Path("/proc").iterdir():
            # Whatever ends while we look is gone; of a zombie the environment is empty.
            with contextlib.suppress(OSError):
                if folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    command = (folder / "cmdline").read_bytes().decode().split("\0")
                    seen.append(Seen(int(folder.name), parent, tuple(command)))
        return seen

    def find(self, role: str, parent: int | None = None) -> Seen | None:
        """The running daemon called ``broker``, ``writer`` or ``gpu-N``."""
        name, _, number = role.partition("-")
        for seen in self.alive():
            arguments = seen.command
            if f"cfbus.daemons.{name}" not in arguments or (parent is not None and seen.parent != parent):
                continue
            if not number or arguments[arguments.index("--gpu-id") + 1] == number:
                return seen
        return None

    def await_none(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Everything has ended, children of children too."""
        for command in self._started:
            command.process.poll()
        until(lambda: f"all processes have ended: {self.alive()}", lambda: not self.alive(), seconds)

    def close(self) -> None:
        """Kill what is left; fail if there was anything that had not ended by itself."""
        for command in self._started:
            command.process.poll()
        try:
            self.await_none(60.0)
        finally:
            while left := self.alive():
                for seen in left:
                    kill(seen.pid)
                time.sleep(POLL_SECONDS)
            for command in self._started:
                command.process.wait()


class Command:
    """One command that was started; its output is in a file."""

    def __init__(self, nursery: Nursery, module: str, arguments: Sequence[str], number: int) -> None:
        self.log = nursery.folder / f"{number}-{module.rpartition('.')[2]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*nursery.prefix, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: nursery.mark},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for this in the output."""

        def look() -> bool:
            assert self.process.poll() is None or text in self.said, f"ended without {text!r}: {self.said}"
            return text in self.said

        until(f"{text!r} in the output", look, seconds)

    def ends(self, code: int, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for its end with this exit code; returns all that it said."""
        try:
            ended = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:.0f} s; it said: {self.said}") from None
        assert ended == code, f"exit code {ended}; it said: {self.said}"
        return self.said

    def signal(self, number: signal.Signals) -> None:
        """Send it to this process alone, as soon as it would notice: one that still begins would die of it."""
        if number in (signal.SIGTERM, signal.SIGHUP):
            until(lambda: f"signal {number} is caught; it said: {self.said}", lambda: self._catches(number))
        self.process.send_signal(number)

    def _catches(self, number: int) -> bool:
        """Whether it has a handler for this signal; true as well when it has ended."""
        caught = re.search(r"(?m)^SigCgt:\t([0-9a-f]+)$", _read(Path(f"/proc/{self.pid}/status")))
        return self.process.poll() is not None or bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def kill(pid: int) -> None:
    """kill -9."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


PORTS = Path(tempfile.gettempdir()) / "cfbus-test-ports"


def free_port(*beside: int) -> int:
    """A port where nobody listens, outside of the range from which the kernel hands out; no test gets it again while
    this process lives. ``beside``: the ports at these distances are free, too."""
    # From the system's dice: those of Python fall alike in all processes of a parallel test run.
    dice = random.SystemRandom()
    PORTS.mkdir(exist_ok=True)
    while True:
        port = dice.randint(15000, 30000)
        if all(_claim(port + step) for step in (0, *beside)):
            return port


def _claim(port: int) -> bool:
    claim = os.open(PORTS / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with socket.socket() as probe, contextlib.suppress(OSError):
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        probe.bind(("127.0.0.1", port))
        return True  # the claim stays open: it ends with this process
    os.close(claim)
    return False


class Run:
    """One `cfbus run`."""

    def __init__(self, nursery: Nursery, out: Path, *arguments: str | Path) -> None:
        self.out = out
        self._nursery = nursery
        self.command = nursery.start("cfbus.tools.main", "run", *arguments, "--out", out)

    def daemon(self, role: str) -> Seen:
        """The child of this name, once it is there."""
        return until(f"{role} runs", lambda: self._nursery.find(role, self.command.pid))

    def follow(self) -> Watch:
        """A watch over the broker of this run, once it serves."""
        log = self.out / "run" / "logs" / "broker.log"

        def serves() -> list[str]:
            lines = log.read_text().splitlines() if log.exists() else []
            return [line for line in lines if " broker.serves " in line]

        facts = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', until("the broker serves", serves)[-1]))
        line = facts["server_key"].strip('"')
        return Watch(self.out / "keys" / "admin.key_secret", line, f"tcp://127.0.0.1:{facts['stats_port']}")


class Watch:
    """What the broker publishes about the run."""

    def __init__(self, key_file: Path, server_line: str, endpoint: str) -> None:
        self._follower = Follower(key_file, server_line, endpoint)

    def until(self, what: str, is_true: Callable[[Status], bool], seconds: float = PATIENCE_SECONDS) -> Status:
        """The first status for which this is true."""
        deadline = time.monotonic() + seconds
        newest: Status | None = None
        while time.monotonic() < deadline:
            newest = self._follower.next(0.1) or newest
            if newest is not None and is_true(newest):
                return newest
        raise AssertionError(f"not within {seconds:.0f} s: {what}; the last status is {newest}")

    def look(self, seconds: float = 0.0) -> Status | None:
        """The newest status that comes within this time, if any does."""
        return self._follower.next(seconds)

    def fresh(self) -> Status:
        """A status that was published from now on."""
        self._follower.next(0)
        return self.until("a status", lambda _: True)

    def close(self) -> None:
        self._follower.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Terminals:
    """A bus as a person starts it: a command in each terminal."""

    def __init__(self, nursery: Nursery, folder: Path, *settings: str, images: Path | None = None) -> None:
        self.folder = folder
        self.store = folder / "captions"
        self.config = folder / "cfbus.yaml"
        self._nursery = nursery
        port, self._stats_port = free_port(), free_port()
        self.endpoint = f"tcp://127.0.0.1:{port}"
        servers = [f"{who}.server={self.endpoint}" for who in ("writer", "worker", "feeder", "admin")]
        ports = [f"broker.port={port}", f"broker.stats_port={self._stats_port}"]
        flags = [word for setting in (*ports, *servers, *settings) for word in ("--set", setting)]
        where = ["--images", str(images)] if images else []
        nursery.start("cfbus.tools.main", "init", folder, *where, *flags).ends(0)

    def start(self, role: str, *arguments: str) -> Command:
        """``broker``, ``writer``, or ``gpu-N``."""
        name, _, number = role.partition("-")
        gpu = ["--gpu-id", number] if number else []
        return self._nursery.start(f"cfbus.daemons.{name}", "--config", self.config, *gpu, *arguments)

    def admin(self, verb: str) -> dict[str, object]:
        """`cfbus-admin VERB`."""
        said = self._nursery.start("cfbus.tools.admin", "--config", self.config, verb, "--json").ends(0)
        facts: dict[str, object] = json.loads(said)
        return facts

    @property
    def stats(self) -> str:
        """The address of the statistics."""
        return f"tcp://127.0.0.1:{self._stats_port}"

    def worker(self, what: str, is_true: Callable[[WorkerView], bool]) -> WorkerView:
        """The first worker on the statistics for which this is true."""
        pair = keys.load(self.folder / "keys" / "admin.key_secret")
        context: sockets.Context = zmq.Context()
        socket, watch = sockets.connect_stats(context, pair, self.server, self.stats, [b"workers"])

        def look() -> WorkerView | None:
            watch.read(time.monotonic())
            pages = [WorkersPage.model_validate_json(bytes(each[1])) for each in sockets.drain_client(socket, 100)]
            return next((view for page in pages for view in page.workers if is_true(view)), None)

        try:
            return until(what, look)
        finally:
            watch.close()
            socket.close()
            context.term()

    @property
    def server(self) -> bytes:
        """The broker's public key."""
        return keys.parse_public_line(self._server_line())[0]

    def watch(self) -> Watch:
        """A watch over the broker, as ``admin.stats`` would be."""
        return Watch(self.folder / "keys" / "admin.key_secret", self._server_line(), self.stats)

    def _server_line(self) -> str:
        return next(
            text.partition("server_key:")[2].strip().strip("'\"")
            for text in self.config.read_text().splitlines()
            if text.strip().startswith("server_key:")
        )
