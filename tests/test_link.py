"""A peer's link to the broker, over real TCP and CURVE: what a person is told, when it ends, and that it finds back."""

from __future__ import annotations

import socket as tcp
import time
from collections.abc import Callable, Iterator

import pytest
import structlog
import zmq
from bus_harness import DEADLINE, Bench, quick_bench
from processes.support import free_port

from cfbus import link, runtime
from cfbus.bus import messages as m
from cfbus.bus import sockets
from cfbus.bus.auth import KeyState, KeyTable
from cfbus.bus.connections import PeerWatch
from cfbus.bus.keys import KeyPair, fingerprint, generate
from cfbus.bus.sockets import Socket
from cfbus.bus.wire import decode, encode
from cfbus.errors import KeyClosedError, KeyRefusedError
from cfbus.link import Link

DOUBT_SECONDS = 0.5


class Peer:
    """A link in a loop of its own, and what it said."""

    def __init__(self, pair: KeyPair, server: bytes, endpoint: str) -> None:
        self.loop = runtime.Loop()
        self.context: sockets.Context = zmq.Context()
        self.said: list[str] = []
        self.why: list[str] = []
        self.messages: list[m.Message] = []
        self.connections = self.turns = 0
        self.began = time.monotonic()
        self.link = Link(self.loop, self.context, pair, server, endpoint, self._connected, self._received)

    def _connected(self) -> None:
        self.connections += 1

    def _received(self, message: m.Message, _payload: bytes) -> None:
        self.messages.append(message)

    def run(self, enough: Callable[[], bool] = lambda: False, seconds: float = DEADLINE) -> bool:
        """Take turns until it is ``enough`` or the time is over; whether it was."""
        end = time.monotonic() + seconds

        def turn(at: float) -> float:
            self.turns += 1
            look = self.link.tick(at)
            if enough() or time.monotonic() >= end:
                self.loop.stop(0)
            return min(look, at + max(0.0, end - time.monotonic()))

        self.loop.exit_code = None
        with structlog.testing.capture_logs() as lines:
            try:
                self.loop.run(turn)
            finally:
                self.said += [str(line["event"]) for line in lines]
                self.why += [str(line.get("why", "")) for line in lines]
        return enough()

    def until_said(self, event: str) -> str:
        """The reason given with the next ``event`` that is told from now on."""
        self.said.clear()
        self.why.clear()
        end = time.monotonic() + DEADLINE
        while event not in self.said:
            assert time.monotonic() < end, f"{event} was not said: {self.said}"
            self.run(seconds=0.1)
        return self.why[self.said.index(event)]

    def fails(self) -> KeyRefusedError:
        """The error that ends it."""
        with pytest.raises(KeyRefusedError) as caught:
            self.run()
        assert caught.value.exit_code == 77
        return caught.value

    def close(self) -> None:
        self.link.close()
        self.context.term()  # would wait for ever if anything were left open


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(link, "WRONG_SERVER_SECONDS", DOUBT_SECONDS)
    monkeypatch.setattr(link, "DIAGNOSE_AGAIN_SECONDS", DOUBT_SECONDS)
    monkeypatch.setattr(link, "REBUILD_SECONDS", (0.1,))
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.2)
    yield from quick_bench(monkeypatch)


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.close()


@pytest.fixture
def dial(bench: Bench, peers: list[Peer]) -> Callable[..., Peer]:
    def make(pair: KeyPair, server: bytes | None = None, endpoint: str | None = None) -> Peer:
        peers.append(Peer(pair, server or bench.pair.public, endpoint or bench.bus_endpoint))
        return peers[-1]

    return make


Dial = Callable[..., Peer]


def connected(peer: Peer, times: int = 1) -> bool:
    return peer.run(lambda: peer.connections >= times and peer.link.connected)


def cut(bench: Bench, watch: PeerWatch) -> None:
    """As a broker does: whoever has said something and is not admitted."""
    watch.delivered(bench.receive())
    assert len(watch.cut_keys(lambda public: False)) == 1


# -- in ----------------------------------------------------------------------------------------


def test_messages_go_both_ways_and_rubbish_does_not_matter(bench: Bench, dial: Dial) -> None:
    peer = dial(bench.enrol())
    assert not peer.link.send(m.Heartbeat())
    assert connected(peer)
    assert peer.link.send(m.Heartbeat())
    (hello,) = bench.receive()
    assert isinstance(decode(hello.frames)[0], m.Heartbeat)
    assert sockets.send(bench.router, hello.routing_id, [b"rubbish"])
    assert sockets.send(bench.router, hello.routing_id, encode(m.Heartbeat(), b""))
    assert peer.run(lambda: bool(peer.messages))
    assert peer.said == ["bus.connected", "message.unreadable"]


def test_an_idle_link_sleeps(bench: Bench, dial: Dial) -> None:
    peer = dial(bench.enrol())
    assert connected(peer)
    peer.run(seconds=0.2)
    before = peer.turns
    peer.run(seconds=1.5)
    # One turn to begin with, one to end with.
    assert peer.turns - before <= 3
    assert peer.link.tick(1000.0) == 1000.0 + runtime.MAX_WAIT_SECONDS == 1060.0


def test_a_broker_that_goes_and_comes_back(bench: Bench, dial: Dial) -> None:
    router, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", free_port())
    peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{port}")
    assert connected(peer)
    router.close(0)
    peer.until_said("bus.disconnected")
    assert not peer.link.connected
    assert not peer.link.send(m.Heartbeat())
    assert "be reached" in peer.until_said("bus.retrying")
    bench.router.close(0)
    bench.router, _ = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", port)
    bench.adopt_server(bench.router)
    assert connected(peer, times=2)
    assert peer.link.send(m.Heartbeat())
    assert len(bench.receive()) == 1


def test_a_broker_that_comes_later(bench: Bench, dial: Dial) -> None:
    port = free_port()
    peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{port}")
    peer.run(seconds=3 * DOUBT_SECONDS)
    assert set(peer.said) == {"bus.retrying"}
    bench.adopt_server(sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", port)[0])
    assert connected(peer)


# -- not in, and why ---------------------------------------------------------------------------


def test_another_server_key(bench: Bench, dial: Dial) -> None:
    peer = dial(bench.enrol(), server=generate().public)
    error = peer.fails()
    assert "not the broker whose key is expected" in error.message
    assert "server_key" in error.hint
    assert DOUBT_SECONDS <= time.monotonic() - peer.began < 30.0
    # Something is there, so nobody is told that nothing can be reached.
    assert set(peer.said) == {"bus.wrong-server"}


def test_an_unknown_key(bench: Bench, dial: Dial) -> None:
    pair = generate()
    error = dial(pair).fails()
    assert "does not know this key" in error.message
    assert fingerprint(pair.public) in error.hint
    assert ".key file" in error.hint
    assert "cfbus keygen" in error.hint


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.SUSPENDED])
def test_a_key_that_has_to_wait_is_let_in_once_it_is_active(bench: Bench, dial: Dial, state: KeyState) -> None:
    pair = bench.enrol(state=state)
    peer = dial(pair)
    for _ in range(2):
        assert "awaits approval or is suspended" in peer.until_said("bus.later")
        assert set(peer.said) == {"bus.later"}
    bench.enrol(pair=pair)
    assert connected(peer)
    assert peer.link.send(m.Heartbeat())
    assert bench.receive()[0].user_id == pair.public


def test_a_key_that_is_suspended_for_a_while(bench: Bench, dial: Dial) -> None:
    watch = PeerWatch(bench.router)
    pair = bench.enrol()
    peer = dial(pair)
    assert connected(peer)
    assert peer.link.send(m.Heartbeat())
    bench.enrol(pair=pair, state=KeyState.SUSPENDED)
    cut(bench, watch)
    assert "awaits approval or is suspended" in peer.until_said("bus.later")
    bench.enrol(pair=pair)
    assert connected(peer, times=2)
    watch.close()


@pytest.mark.parametrize("state", [KeyState.REVOKED, KeyState.EXPIRED])
def test_a_key_that_is_closed_for_good(bench: Bench, dial: Dial, state: KeyState) -> None:
    watch = PeerWatch(bench.router)
    pair = bench.enrol()
    peer = dial(pair)
    assert connected(peer)
    assert peer.link.send(m.Heartbeat())
    bench.enrol(pair=pair, state=state)
    cut(bench, watch)
    error = peer.fails()
    assert "any more: it was revoked or has expired" in error.message
    assert fingerprint(pair.public) in error.hint
    again = dial(pair).fails()
    assert "knows this key and does not admit it any more: it was revoked or has expired" in again.message
    assert f"cfbus-admin keys show {fingerprint(pair.public)}" in again.hint
    assert {type(error), type(again)} == {KeyClosedError}
    watch.close()


def test_a_key_that_is_not_known_any_more(bench: Bench, dial: Dial) -> None:
    watch = PeerWatch(bench.router)
    peer = dial(bench.enrol())
    assert connected(peer)
    assert peer.link.send(m.Heartbeat())
    bench.auth.swap(KeyTable())
    cut(bench, watch)
    assert "any more: it does not know it any more" in peer.fails().message
    watch.close()


def test_what_the_broker_said_of_a_closed_key_is_told_but_not_of_an_earlier_time(bench: Bench, dial: Dial) -> None:
    watch = PeerWatch(bench.router)
    pair = bench.enrol()
    peer = dial(pair)
    assert connected(peer)

    def put_out(state: KeyState, why: str) -> None:
        assert peer.link.send(m.Heartbeat())
        (heard,) = bench.receive()
        watch.delivered([heard])
        if why:
            sockets.send(bench.router, heard.routing_id, encode(m.Error(code="key-closed", sentence=why)))
            assert peer.run(lambda: any(isinstance(each, m.Error) for each in peer.messages))
            peer.messages.clear()
        bench.enrol(pair=pair, state=state)
        assert watch.cut_keys(lambda public: False)

    put_out(KeyState.SUSPENDED, "this key is suspended (\x1b[2Jlook).")
    peer.until_said("bus.later")
    bench.enrol(pair=pair)
    assert connected(peer, times=2)
    put_out(KeyState.REVOKED, "")
    assert "it was revoked or has expired" in peer.fails().message

    again = dial(pair := bench.enrol())
    peer = again
    assert connected(peer)
    put_out(KeyState.REVOKED, "this key was revoked (\x1b[2Jspam).")
    message = peer.fails().message
    assert r"any more: it said: this key was revoked (\x1b[2Jspam)." in message
    watch.close()


def test_who_was_in_once_waits_for_the_broker_that_it_knows(bench: Bench, dial: Dial) -> None:
    def serve(pair: KeyPair, port: int) -> tuple[Socket, int]:
        return sockets.bind_bus(bench.context, pair, "127.0.0.1", port)

    router, port = serve(bench.pair, 0)
    peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{port}")
    assert connected(peer)
    router.close(0)
    peer.until_said("bus.retrying")
    other, _ = serve(generate(), port)
    for _ in range(3):
        peer.until_said("bus.wrong-server")
    other.close(0)
    peer.until_said("bus.retrying")
    bench.adopt_server(serve(bench.pair, port)[0])
    assert connected(peer, times=2)


def test_who_listens_and_never_says_a_word_is_not_taken_for_another(
    bench: Bench, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "DIAGNOSIS_SECONDS", 0.3)
    with tcp.create_server(("127.0.0.1", 0)) as mute:
        peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{mute.getsockname()[1]}")
        for _ in range(2):
            assert "did not finish the handshake" in peer.until_said("bus.hung-up")
        assert set(peer.said) == {"bus.hung-up"}


def test_what_listens_is_no_broker(bench: Bench, dial: Dial) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        def answer() -> None:
            web, _ = listener.accept()
            with web:
                web.sendall(
                    b"HTTP/1.1 400 Bad Request\r\nServer: something else altogether\r\nContent-Length: 0\r\n\r\n"
                )

        peer.loop.watch(listener.fileno(), answer)
        assert "not the broker" in peer.fails().message
        assert set(peer.said) == {"bus.wrong-server"}
        peer.loop.unwatch(listener.fileno())


def test_doubt_ends_when_nobody_is_there_any_more(bench: Bench, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "WRONG_SERVER_SECONDS", 2.0)
    router, port = sockets.bind_bus(bench.context, generate(), "127.0.0.1", free_port())
    peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{port}")
    peer.until_said("bus.wrong-server")
    router.close(0)
    peer.run(seconds=2.5)
    router, _ = sockets.bind_bus(bench.context, generate(), "127.0.0.1", port)
    peer.until_said("bus.wrong-server")
    router.close(0)
    peer.until_said("bus.retrying")
    bench.adopt_server(sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", port)[0])
    assert connected(peer)


def test_closed_in_the_middle_of_a_diagnosis(bench: Bench, dial: Dial) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as mute:
        peer = dial(bench.enrol(), endpoint=f"tcp://127.0.0.1:{mute.getsockname()[1]}")
        assert peer.run(lambda: peer.link._stranger is not None)
