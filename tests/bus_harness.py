"""A broker's two ports behind a real authenticator, and clients to try them with, over real TCP and CURVE.

A fixture made of ``quick_bench`` also sees that nothing is left running.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import zmq

from cfbus.bus import sockets
from cfbus.bus.auth import Authenticator, KeyEntry, KeyState, KeyTable
from cfbus.bus.keys import KeyPair, generate
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Connection, ConnectionWatch, Inbound, Socket

DEADLINE = 60.0
DOMAINS = {"bus": {Role.WORKER, Role.WRITER, Role.ADMIN}, "stats": {Role.MONITOR, Role.ADMIN}}
OUTCOMES = (
    Connection.HANDSHAKE_OK, Connection.REFUSED, Connection.CLOSED, Connection.HUNG_UP, Connection.WRONG_SERVER,
)  # fmt: skip


def entry(public: bytes, role: Role = Role.WORKER, state: KeyState = KeyState.ACTIVE) -> KeyEntry:
    return KeyEntry(public, role, state, "c-1", "test")


class Bench:
    """The ports and their ZAP handler; all that is opened through it is closed by it."""

    def __init__(self) -> None:
        self.context: sockets.Context = zmq.Context()
        self.pair = generate()
        self.entries: dict[bytes, KeyEntry] = {}
        self.auth = Authenticator()
        self.auth.start(self.context, KeyTable(), DOMAINS)
        self.router, port = sockets.bind_bus(self.context, self.pair, "127.0.0.1", 0)
        self.stats, stats_port = sockets.bind_stats(self.context, self.pair, "127.0.0.1", 0)
        self.bus_endpoint = f"tcp://127.0.0.1:{port}"
        self.stats_endpoint = f"tcp://127.0.0.1:{stats_port}"
        self.dropped: Counter[str] = Counter()
        self._opened: list[Socket] = [self.router, self.stats]
        self._watches: list[ConnectionWatch] = []

    def enrol(
        self, role: Role = Role.WORKER, state: KeyState = KeyState.ACTIVE, pair: KeyPair | None = None
    ) -> KeyPair:
        """A key that the authenticator knows from now on, beside those before."""
        pair = pair or generate()
        self.entries[pair.public] = entry(pair.public, role, state)
        self.auth.swap(KeyTable(self.entries.values()))
        return pair

    def dial(
        self, pair: KeyPair, endpoint: str | None = None, server: bytes | None = None
    ) -> tuple[Socket, ConnectionWatch]:
        return self.keep(
            sockets.connect_bus(self.context, pair, server or self.pair.public, endpoint or self.bus_endpoint)
        )

    def keep(self, client: tuple[Socket, ConnectionWatch]) -> tuple[Socket, ConnectionWatch]:
        self._opened.append(client[0])
        self._watches.append(client[1])
        return client

    def adopt(self, kind: int) -> Socket:
        socket: Socket = self.context.socket(kind)
        self._opened.append(socket)
        return socket

    def adopt_server(self, socket: Socket) -> None:
        """Close it with the rest."""
        self._opened.append(socket)

    def worker(self, endpoint: str | None = None) -> tuple[Socket, ConnectionWatch]:
        """A worker that is in."""
        client, watch = self.dial(self.enrol(), endpoint)
        until(watch, Connection.HANDSHAKE_OK)
        return client, watch

    def enter(self, endpoint: str | None = None) -> tuple[Socket, ConnectionWatch, Inbound]:
        """A worker that is in, and its first message."""
        client, watch = self.worker(endpoint)
        assert sockets.send(client, None, [b"hello"])
        (hello,) = self.receive()
        return client, watch, hello

    def receive(self, count: int = 1) -> list[Inbound]:
        arrived: list[Inbound] = []
        end = time.monotonic() + DEADLINE
        while len(arrived) < count:
            assert time.monotonic() < end, f"{len(arrived)} of {count} messages came"
            self.router.poll(100)
            arrived += sockets.drain(self.router, 1000, self.dropped)
        return arrived

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        for socket in self._opened:
            socket.close(0)
        self.auth.stop()
        self.context.destroy(0)


def quick_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose clients are quick to dial again and to lose patience."""
    monkeypatch.setattr(sockets, "_RECONNECT_MS", (20, 40))
    threads = set(threading.enumerate())
    made = Bench()
    # From here on, for the clients only.
    monkeypatch.setattr(sockets, "_HANDSHAKE_MS", 3000)
    yield made
    made.close()
    assert not made.auth.alive
    # pyzmq keeps one collector of zero-copy buffers per process.
    left = {each for each in threading.enumerate() if "garbage" not in type(each).__name__.lower()}
    assert left <= threads


def until(watch: ConnectionWatch, *wanted: Connection, seconds: float = DEADLINE) -> list[Connection]:
    """Everything told up to and including the first that is ``wanted``."""
    told: list[Connection] = []
    end = time.monotonic() + seconds
    while not any(each in wanted for each in told):
        assert time.monotonic() < end, f"{wanted} never came: {told}"
        watch.events.poll(50)
        told += watch.read(time.monotonic())
    return told


def outcome(watch: ConnectionWatch, *more: Connection) -> Connection:
    """How its handshake ended."""
    wanted = (*OUTCOMES, *more)
    return next(each for each in until(watch, *wanted) if each in wanted)


def drained(socket: Socket, count: int) -> list[Inbound]:
    got: list[Inbound] = []

    def enough() -> bool:
        got.extend(sockets.drain(socket, 3, Counter()))
        return len(got) >= count

    eventually(enough)
    return got


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.005)
