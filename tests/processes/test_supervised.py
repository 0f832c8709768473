"""What systemd hears of real daemons, on a socket like its own."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from processes.support import Command, Nursery, Terminals, until

SCRIPTED = (
    "dataset.source=scripted",
    "dataset.items=100000",
    "captions.engine=scripted",
    "captions.scripted.rate=300",
)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    # Of its own, for the path of a socket may have 107 bytes, and that of a test's folder may be longer.
    with (
        TemporaryDirectory(prefix="cfbus-", dir="/tmp") as folder,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as door,
    ):
        door.bind(f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")
        yield door


class Heard:
    """All lines so far."""

    def __init__(self, manager: socket.socket) -> None:
        self._manager = manager
        self.lines: list[str] = []

    def listen(self) -> list[str]:
        while select.select([self._manager], [], [], 0)[0]:
            self.lines += self._manager.recv(4096).decode().split("\n")
        return self.lines

    def count(self, line: str) -> int:
        return self.listen().count(line)

    def status(self, words: str) -> bool:
        return any(line.startswith("STATUS=") and words in line for line in self.listen())


def _ready(heard: Heard, number: int) -> Callable[[], bool]:
    return lambda: heard.count("READY=1") == number


def _ended(heard: Heard, daemon: Command) -> Callable[[], bool]:
    """Listening meanwhile: what finds the queue full is lost, and there is room for as few as ten."""
    return lambda: bool(heard.listen()) and daemon.process.poll() is not None


def _says(heard: Heard, words: str) -> Callable[[], bool]:
    return lambda: heard.status(words)


def test_ready_at_work_fed_and_stopping(nursery: Nursery, tmp_path: Path, manager: socket.socket) -> None:
    heard = Heard(manager)
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED)
    daemons = []
    for number, role in enumerate(("broker", "writer", "gpu-0"), 1):
        daemons.append(bus.start(role))
        until(f"{role} is ready", _ready(heard, number))
    for words in ("not sealed yet", "leasing: ", "captioning: "):
        until(f"one says {words}", _says(heard, words))
    fed = heard.count("WATCHDOG=1")
    until("the watchdog is fed on and on", lambda: heard.count("WATCHDOG=1") >= fed + 9)
    for number, daemon in enumerate(reversed(daemons), 1):
        daemon.signal(signal.SIGTERM)
        until(f"{daemon.log} ends", _ended(heard, daemon))
        daemon.ends(0)
        assert heard.count("STOPPING=1") >= number


def test_a_loop_that_stands_still_is_not_fed(nursery: Nursery, tmp_path: Path, manager: socket.socket) -> None:
    heard = Heard(manager)
    bus = Terminals(nursery, tmp_path / "bus", *SCRIPTED)
    broker = bus.start("broker")
    until("it is fed", lambda: heard.count("WATCHDOG=1") >= 2)
    broker.signal(signal.SIGSTOP)
    until("it stands still", lambda: "\nState:\tT" in Path(f"/proc/{broker.pid}/status").read_text())
    heard.listen()
    heard.lines.clear()
    assert select.select([manager], [], [], 4.0)[0] == [], "somebody else fed it"
    broker.signal(signal.SIGCONT)
    until("it is fed again", lambda: heard.count("WATCHDOG=1") >= 2)
    broker.signal(signal.SIGTERM)
    broker.ends(0)
