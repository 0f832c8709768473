"""A worker without an engine: speaks with broker and feeder itself, frame by frame, and keeps every frame.

Knows the protocol and nothing of the product's own worker, so that a test sees what really crosses the wire.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import zmq
from processes.support import PATIENCE_SECONDS, until

from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.sockets import Connection, Context
from cfbus.bus.wire import decode, decode_table, encode
from cfbus.runtime import new_id


class Link:
    """One connection, and all that came over it."""

    def __init__(self, context: Context, pair: keys.KeyPair, server: bytes, endpoint: str) -> None:
        self._socket, self._watch = sockets.connect_bus(context, pair, server, endpoint)
        self._seen: list[Connection] = []
        self.frames: list[bytes] = []

    def becomes(self, what: Connection) -> None:
        """Wait until this happens to the connection."""

        def look() -> bool:
            self._seen += self._watch.read(time.monotonic())
            return what in self._seen

        until(lambda: f"{what}: {self._seen}", look)

    def say(self, message: m.Message) -> None:
        assert sockets.send(self._socket, None, encode(message))

    def hear(self) -> list[tuple[m.Message, bytes]]:
        """What has come since."""
        heard = []
        for frames in sockets.drain_client(self._socket, 1000):
            self.frames += map(bytes, frames)
            heard.append(decode(frames))
        return heard

    def wait(self) -> None:
        """Until something can be heard, or a second has passed."""
        self._socket.poll(1000)

    def close(self) -> None:
        self._watch.close()
        self._socket.close(0)


@dataclass
class Got:
    """What a feeder gave of an item."""

    size: int = -1
    columns_size: int = 0
    data: bytearray = field(default_factory=bytearray)
    failure: str = ""

    @property
    def whole(self) -> bool:
        return bool(self.failure) or len(self.data) == self.size

    @property
    def image(self) -> bytes:
        return bytes(self.data[self.columns_size :])


class FeederLink(Link):
    """A connection to a feeder."""

    def __init__(self, context: Context, pair: keys.KeyPair, server: bytes, endpoint: str) -> None:
        super().__init__(context, pair, server, endpoint)
        self.got: dict[int, Got] = {}
        self.received = 0

    def ask(self, lease: str, *items: int, credit: int) -> None:
        for at in range(0, max(len(items), 1), m.MAX_FETCH_ITEMS):
            self.say(m.Fetch(lease=lease, items=items[at : at + m.MAX_FETCH_ITEMS], credit=credit))

    def take(self) -> None:
        """Take in what has come."""
        for message, payload in self.hear():
            assert isinstance(message, m.Data)
            got = self.got.setdefault(message.index, Got())
            got.size, got.columns_size = message.size, message.columns_size
            got.failure = message.failure.reason if message.failure else ""
            got.data += payload
            self.received += len(payload)

    def read(self, lease: str, *items: int) -> list[Got]:
        """These items, with credit for all that may come."""
        self.ask(lease, *items, credit=1 << 40)
        return self.await_items(*items)

    def await_items(self, *items: int) -> list[Got]:
        """What was asked for before."""
        left, deadline = set(items), time.monotonic() + PATIENCE_SECONDS
        while left:
            assert time.monotonic() < deadline, f"{len(left)} items have not come"
            self.wait()
            self.take()
            left.difference_update([item for item in left if item in self.got and self.got[item].whole])
        return [self.got.pop(item) for item in items]


class RawWorker:
    """Says HELLO, takes leases, and dials the feeders that GRANTs name."""

    def __init__(self, pair: keys.KeyPair, server: bytes, endpoint: str, *, reads: bool = False) -> None:
        self._pair = pair
        self._context: Context = zmq.Context()
        self.link = Link(self._context, pair, server, endpoint)
        hello = m.Hello(role=m.Role.WORKER, instance=new_id(), software="test", name="raw", concurrency=16, reads=reads)
        self.link.becomes(Connection.HANDSHAKE_OK)
        self.link.say(hello)
        self.wait_for(m.Welcome)
        self._feeders: list[FeederLink] = []

    def wait_for(self, kind: type[m.Message]) -> tuple[m.Message, bytes]:
        """The next message of this kind; others are passed over."""

        def look() -> tuple[m.Message, bytes] | None:
            return next((each for each in self.link.hear() if isinstance(each[0], kind)), None)

        return until(kind.TAG, look)

    def lease(self, want: int, rate: float = 0.0) -> tuple[m.Grant, list[str]]:
        """A lease for a worker of this many items a second, and the keys of its items."""
        self.link.say(m.Lease(want=want, rate=rate))
        grant, payload = self.wait_for(m.Grant)
        assert isinstance(grant, m.Grant)
        return grant, decode_table("listing", payload).text("key").texts()

    def dial(self, way: m.Way) -> FeederLink:
        """Go to a feeder."""
        feeder = FeederLink(self._context, self._pair, way.public.encode(), way.endpoint)
        self._feeders.append(feeder)
        feeder.becomes(Connection.HANDSHAKE_OK)
        return feeder

    def close(self) -> None:
        for feeder in self._feeders:
            feeder.close()
        self.link.close()
        self._context.term()
