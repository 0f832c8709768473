"""The worker's side of a feeder, on real sockets: what comes whole, what is refused, and feeders that are not there."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import zmq
from processes.support import free_port, until

from cfbus.bus import auth, keys, sockets
from cfbus.bus import messages as m
from cfbus.bus.wire import decode, encode
from cfbus.sources import fed
from cfbus.sources.base import Content, ReadError
from cfbus.sources.fed import Feeders

LEASE = "a" * 16


class Feeder:
    """Somebody who has a feeder's key and says what the test wants."""

    def __init__(self, worker: bytes, port: int = 0, pair: keys.KeyPair | None = None) -> None:
        self.pair = pair or keys.generate()
        self._context: sockets.Context = zmq.Context()
        self._door = auth.Authenticator()
        entry = auth.KeyEntry(worker, m.Role.WORKER, auth.KeyState.ACTIVE, "", "")
        self._door.start(self._context, auth.KeyTable([entry]), {sockets.FEED_DOMAIN: {m.Role.WORKER}})
        self._socket, self.port = sockets.bind_feed(self._context, self.pair, "127.0.0.1", port)
        self._dropped: Counter[str] = Counter()
        self.to = b""
        self.asked: list[m.Fetch] = []

    @property
    def way(self) -> m.Way:
        return m.Way(endpoint=f"tcp://127.0.0.1:{self.port}", public=self.pair.public.decode())

    def hear(self) -> list[m.Fetch]:
        for inbound in sockets.drain(self._socket, 100, self._dropped):
            message, _ = decode(inbound.frames)
            assert isinstance(message, m.Fetch)
            self.to = inbound.routing_id
            self.asked.append(message)
        return self.asked

    def is_asked_for(self, index: int) -> None:
        until(f"item {index} is asked for", lambda: any(index in fetch.items for fetch in self.hear()))

    def say(self, message: m.Data, payload: bytes = b"") -> None:
        assert sockets.send(self._socket, self.to, encode(message, payload))

    def close(self) -> None:
        self._socket.close(0)
        self._door.stop()
        self._context.term()


class Reader:
    """A thread that reads one item."""

    def __init__(self, feeders: Feeders, index: int) -> None:
        self.content: Content | None = None
        self.error: ReadError | None = None
        self._thread = threading.Thread(target=self._read, args=(feeders, index), daemon=True)
        self._thread.start()

    def _read(self, feeders: Feeders, index: int) -> None:
        try:
            self.content = feeders.read(LEASE, index)
        except ReadError as error:
            self.error = error

    def ends(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def pair() -> keys.KeyPair:
    return keys.generate()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def feeders(pair: keys.KeyPair, lost: list[str]) -> Iterator[Feeders]:
    made = Feeders(pair, lost.append)
    yield made
    made.close()


@pytest.fixture
def feeder(pair: keys.KeyPair) -> Iterator[Feeder]:
    made = Feeder(pair.public)
    yield made
    made.close()


def test_an_item_in_pieces(feeders: Feeders, feeder: Feeder) -> None:
    feeders.read_from(LEASE, feeder.way)
    reader = Reader(feeders, 7)
    feeder.is_asked_for(7)
    columns = json.dumps({"title": "x"}).encode()
    whole = columns + b"picture"
    for at in range(0, len(whole), 5):
        piece = m.Data(lease=LEASE, index=7, size=len(whole), columns_size=len(columns), offset=at)
        feeder.say(piece, whole[at : at + 5])
    reader.ends()
    assert reader.content == Content(b"picture", {"title": "x"})
    assert feeder.asked[0].credit == fed.WINDOW_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [(m.Data(lease=LEASE, index=7, size=1 << 40), b"x")],
        [(m.Data(lease=LEASE, index=7, size=4, columns_size=5), b"x")],
        [(m.Data(lease=LEASE, index=7, size=4, offset=2), b"x")],
        [(m.Data(lease=LEASE, index=7, size=2), b"xyz")],
        [(m.Data(lease=LEASE, index=7, size=4), b"x"), (m.Data(lease=LEASE, index=7, size=5, offset=1), b"x")],
        [(m.Data(lease=LEASE, index=7, size=3, columns_size=3), b"{{{")],
        [(m.Data(lease=LEASE, index=7, size=3, columns_size=2), b"[]x")],
    ],
    ids=["huge", "columns", "gap", "more", "changed", "no-json", "no-map"],
)
def test_what_a_feeder_may_not_send(
    feeders: Feeders, feeder: Feeder, lost: list[str], pieces: list[tuple[m.Data, bytes]]
) -> None:
    feeders.read_from(LEASE, feeder.way)
    reader = Reader(feeders, 7)
    feeder.is_asked_for(7)
    for message, payload in pieces:
        feeder.say(message, payload)
    reader.ends()
    assert reader.error is not None
    assert reader.error.fault == "network"
    assert lost == []


def test_what_cannot_be_read_there_is_told(feeders: Feeders, feeder: Feeder) -> None:
    feeders.read_from(LEASE, feeder.way)
    reader = Reader(feeders, 7)
    feeder.is_asked_for(7)
    failure = m.FailedItem(index=7, reason="vanished", detail="It is gone.", fault="item")
    feeder.say(m.Data(lease=LEASE, index=7, failure=failure))
    reader.ends()
    assert str(reader.error) == "vanished: It is gone."


def test_a_lease_that_is_not_served_is_given_back(feeders: Feeders, feeder: Feeder, lost: list[str]) -> None:
    feeders.read_from(LEASE, feeder.way)
    first, second = Reader(feeders, 7), Reader(feeders, 8)
    feeder.is_asked_for(7)
    feeder.is_asked_for(8)
    feeder.say(m.Data(lease=LEASE, index=7, failure=m.FailedItem(index=7, reason="no-lease", fault="network")))
    for reader in (first, second):
        reader.ends()
        assert reader.error is not None
    assert lost == [LEASE]
    assert not feeders.feeds(LEASE)
    feeders.read_from(LEASE, feeder.way)
    again = Reader(feeders, 9)
    feeder.is_asked_for(9)
    feeder.say(m.Data(lease=LEASE, index=9, size=1), b"x")
    again.ends()
    assert again.content == Content(b"x")


def test_a_feeder_that_cannot_be_reached(
    feeders: Feeders, feeder: Feeder, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fed, "UNREACHABLE_SECONDS", 1.5)
    nowhere = m.Way(endpoint=f"tcp://127.0.0.1:{free_port()}", public=feeder.way.public)
    feeders.read_from(LEASE, nowhere)
    reader = Reader(feeders, 7)
    reader.ends()
    assert reader.error is not None
    assert reader.error.fault == "network"
    assert lost == [LEASE]
    feeders.read_from(LEASE, feeder.way)
    again = Reader(feeders, 8)
    feeder.is_asked_for(8)
    feeder.say(m.Data(lease=LEASE, index=8, size=1), b"x")
    again.ends()
    assert again.content == Content(b"x")


def test_another_key_than_the_broker_named_is_not_talked_to(
    feeders: Feeders, feeder: Feeder, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fed, "UNREACHABLE_SECONDS", 1.5)
    feeders.read_from(LEASE, m.Way(endpoint=feeder.way.endpoint, public=keys.generate().public.decode()))
    reader = Reader(feeders, 7)
    reader.ends()
    assert lost == [LEASE]
    assert feeder.hear() == []


def test_after_a_break_what_is_missing_is_asked_for_anew(pair: keys.KeyPair, feeders: Feeders) -> None:
    port = free_port()
    first = Feeder(pair.public, port)
    feeders.read_from(LEASE, first.way)
    reader = Reader(feeders, 7)
    first.is_asked_for(7)
    first.say(m.Data(lease=LEASE, index=7, size=4), b"xx")
    first.close()
    second = Feeder(pair.public, port, first.pair)
    second.is_asked_for(7)
    second.say(m.Data(lease=LEASE, index=7, size=4), b"abcd")
    reader.ends()
    assert reader.content == Content(b"abcd")
    second.close()


def test_closing_fails_who_waits(feeders: Feeders, feeder: Feeder) -> None:
    feeders.read_from(LEASE, feeder.way)
    reader = Reader(feeders, 7)
    feeder.is_asked_for(7)
    feeders.close()
    reader.ends()
    assert reader.error is not None
    feeders.forget(LEASE)
