"""A real broker and a real writer for attackers, one honest worker beside them, and what the broker counted.

Knows how a case is judged: it moved its counter, the broker lives and has all its descriptors back, a second round
adds no memory to speak of, and the honest worker is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from abuse.curve import Raw
from processes.support import Nursery, Terminals, until

from cfbus.bus import keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.auth import KeyState
from cfbus.bus.keys import KeyPair
from cfbus.bus.wire import decode, encode
from cfbus.store.registry import Registry

MALLORYS = 240
GROWTH_BYTES = 12 << 20
"""More than an allocator keeps from one round to the next; far less than any attack sends."""
MORE_ROUNDS = 3
ITEMS = 2_000_000
SETTINGS = (
    "dataset.source=scripted",
    f"dataset.items={ITEMS}",
    "captions.engine=scripted",
)
Attack = Callable[["Bus"], None]


class Client:
    """A peer that speaks the protocol rightly, or nearly: over the raw connection."""

    def __init__(self, raw: Raw, role: m.Role = m.Role.WORKER) -> None:
        self.raw = raw
        self.role = role
        self.instance = os.urandom(8).hex()

    def say(self, message: m.Message, payload: bytes = b"") -> None:
        self.raw.send(*encode(message, payload))

    def hear(self, *kinds: type[m.Message]) -> tuple[m.Message, bytes]:
        """The next message that is one of these; others are passed over."""
        while True:
            message, payload = decode(self.raw.receive())
            if isinstance(message, kinds):
                return message, payload

    def join(self) -> m.Welcome:
        self.say(m.Hello(role=self.role, instance=self.instance, software="test", name="mallory"))
        welcome, _ = self.hear(m.Welcome)
        assert isinstance(welcome, m.Welcome)
        return welcome

    def lease(self, want: int = 8) -> m.Grant:
        self.say(m.Lease(want=want, rate=0.0))
        grant, _ = self.hear(m.Grant)
        assert isinstance(grant, m.Grant)
        return grant

    def error(self) -> str:
        """The code of the next ERROR."""
        error, _ = self.hear(m.Error)
        assert isinstance(error, m.Error)
        return error.code


class Counters:
    """What the broker publishes of refusals; asked anew each time."""

    def __init__(self, pair: KeyPair, server: bytes, endpoint: str) -> None:
        self._context: sockets.Context = zmq.Context()
        self._socket, self._watch = sockets.connect_stats(self._context, pair, server, endpoint, [])

    def read(self) -> dict[str, int]:
        # A subscription is answered at once; and without one the broker tells nobody anything.
        self._watch.read(time.monotonic())
        sockets.drain_client(self._socket, 1000)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"refusals")
        try:
            assert self._socket.poll(60_000), "the broker publishes nothing"
            counts: dict[str, int] = json.loads(self._socket.recv_multipart()[1])["counts"]
        finally:
            self._socket.setsockopt(zmq.UNSUBSCRIBE, b"refusals")
        return counts

    def close(self) -> None:
        self._watch.close()
        self._socket.close(0)
        self._context.term()


class Bus:
    """A broker, a writer, and keys for those who mean no good."""

    def __init__(self, nursery: Nursery, folder: Path, *settings: str) -> None:
        self.terminals = Terminals(nursery, folder / "bus", *SETTINGS, *settings)
        self.port = int(self.terminals.endpoint.rpartition(":")[2])
        self.stats_port = int(self.terminals.stats.rpartition(":")[2])
        self.pairs = [keys.generate() for _ in range(MALLORYS)]
        self.honest_pair = keys.generate()
        self._next = iter(self.pairs)
        with Registry.open(self.registry, create=False) as registry:
            now = time.time()
            for name, pairs in (("mallory", self.pairs), ("ann", [self.honest_pair])):
                owner = registry.add_contributor(name, trust=1, who="test", now=now).contributor_id
                for pair in pairs:
                    registry.add_key(pair.public, m.Role.WORKER, owner, name, who="test", now=now)
            self.monitor_pair = keys.generate()
            registry.add_key(self.monitor_pair.public, m.Role.MONITOR, owner, "eve", who="test", now=now)
        self.broker = self.terminals.start("broker")
        self.writer = self.terminals.start("writer")
        admin = keys.load(self.terminals.folder / "keys" / "admin.key_secret")
        self.server = self.terminals.server
        self.broker.says("writer.joined")
        self.counters = Counters(admin, self.server, self.terminals.stats)
        self.counters.read()
        self.serve_an_honest_worker()
        self._send_something_large()

    def _send_something_large(self) -> None:
        """pyzmq opens a context of its own with the first frame that is passed on without a copy, and keeps it."""
        payload = bytes(100_000)
        with self.client() as peer:
            grant = peer.lease()
            ranges = ((grant.start, grant.start + 1),)
            fields = {"lease": grant.lease, "instance": peer.instance, "number": 1, "ranges": ranges}
            peer.say(m.Result.model_validate({**fields, "size": len(payload), "crc": 0}), payload)
            peer.hear(m.Ack)

    @property
    def registry(self) -> Path:
        found = list(self.terminals.folder.rglob("registry.sqlite"))
        assert len(found) == 1, found
        return found[0]

    def key_rows(self) -> list[dict[str, str]]:
        """What the registry says of each key."""
        with Registry.open(self.registry, create=False) as registry:
            return [{"name": row.name, "state": row.state, "reason": row.reason} for row in registry.keys()]  # noqa: SIM118 - no mapping

    def revoke(self, pair: KeyPair) -> None:
        """As a maintainer does; in force on return."""
        with Registry.open(self.registry, create=False) as registry:
            registry.set_state(pair.public, KeyState.REVOKED, who="test", now=time.time())
        self.broker.process.send_signal(signal.SIGHUP)
        until(lambda: "the key is out", lambda: not self.admits(pair))

    def close(self) -> None:
        self.counters.close()
        for command in (self.writer, self.broker):
            command.process.terminate()
            command.process.wait(60)

    # ------------------------------------------------------------------ attackers

    def key(self) -> KeyPair:
        """A worker's key that nothing is known against."""
        return next(self._next)

    def raw(self, pair: KeyPair | None = None, source: str = "127.0.0.1") -> Raw:
        """A connection on which nothing was said yet."""
        return Raw(self.port, self.server, pair or self.key(), source)

    def admits(self, pair: KeyPair) -> bool:
        """Whether the port of the bus lets this key in."""
        with self.raw(pair) as raw:
            raw.tcp.settimeout(20)
            try:
                raw.enter()
            except (ConnectionError, TimeoutError):
                return False
        return True

    @contextmanager
    def client(self, pair: KeyPair | None = None, *, join: bool = True) -> Iterator[Client]:
        """A peer that is in."""
        with self.raw(pair) as raw:
            client = Client(raw.enter())
            if join:
                client.join()
            yield client

    # ------------------------------------------------------------------ the broker

    def descriptors(self) -> int:
        return len(self._open_files())

    def _open_files(self) -> list[str]:
        found = []
        for each in Path(f"/proc/{self.broker.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(each.readlink()))
        return found

    def memory(self) -> int:
        """Resident bytes."""
        fields = Path(f"/proc/{self.broker.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def serve_an_honest_worker(self) -> None:
        """One that joins, is granted items, is told that its leases go on, and hands them back."""
        with self.client(self.honest_pair) as ann:
            grant = ann.lease()
            ann.say(m.Renew(leases=(m.HeldLease(lease=grant.lease, captioned=1),), unacked_bytes=0, rate=1.0))
            renewed, _ = ann.hear(m.Renewed)
            assert isinstance(renewed, m.Renewed)
            assert renewed.leases[0].current
            ann.say(m.Release(lease=grant.lease))
            ann.say(m.Bye())

    def moved(self, before: dict[str, int], counter: str, least: int) -> None:
        """Wait until the broker has noticed so much more under this name."""

        def look() -> bool:
            return self.counters.read().get(counter, 0) - before.get(counter, 0) >= least

        until(lambda: f"{counter} by {least}: {self._changes(before)}", look)

    @staticmethod
    def _grows(sizes: list[int]) -> bool:
        """Whether the last round has added much. Once it may, when more waited at a time than before."""
        return sizes[-1] - sizes[-2] >= GROWTH_BYTES

    def _changes(self, before: dict[str, int]) -> dict[str, int]:
        return {name: count - before.get(name, 0) for name, count in self.counters.read().items()
                if count != before.get(name, 0)}  # fmt: skip

    def survives(self, attack: Attack, counter: str, least: int = 1, *, rounds: int = 2) -> None:
        """Judge an attack: see this module's first lines."""
        base = self.descriptors()
        sizes: list[int] = []
        while len(sizes) < rounds or (rounds > 1 and self._grows(sizes)):
            before = self.counters.read()
            attack(self)
            self.moved(before, counter, least)
            assert self.broker.process.poll() is None, self.broker.said[-2000:]
            until(lambda: f"{base} descriptors again: {self._open_files()}", lambda: self.descriptors() <= base)
            self.serve_an_honest_worker()
            sizes.append(self.memory())
            assert len(sizes) < rounds + MORE_ROUNDS, f"memory grows with each round: {sizes}"
        assert "Traceback" not in self.broker.said, self.broker.said[-3000:]
