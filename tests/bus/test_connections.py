"""Connections over real TCP: the broker's try of its own door, what a stranger finds out, who is cut and who never."""

from __future__ import annotations

import resource
import select
import socket as tcp
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zmq
from bus_harness import DEADLINE, Bench, entry, eventually, until

from cfbus.bus import connections, sockets
from cfbus.bus.auth import KeyState, KeyTable, Reason
from cfbus.bus.connections import PeerWatch, Stranger, cut, diagnosis, peer_address, peer_limit, self_test
from cfbus.bus.keys import generate
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Connection, Socket
from cfbus.errors import UnsafeError

# -- the broker's own try ----------------------------------------------------------------------


def test_a_sound_door_passes_its_own_test(bench: Bench) -> None:
    self_test(bench.bus_endpoint, bench.pair.public)
    assert bench.auth.counts()[Reason.UNKNOWN] == 1


def test_a_door_without_a_handler_fails_it(bench: Bench) -> None:
    bench.auth.stop()
    with pytest.raises(UnsafeError, match="could not see") as caught:
        self_test(bench.bus_endpoint, bench.pair.public)
    assert caught.value.exit_code == 78


def test_an_open_door_fails_it(bench: Bench) -> None:
    # What a CURVE server does when ZAP_ENFORCE_DOMAIN was forgotten and nobody handles ZAP.
    context: sockets.Context = zmq.Context()
    router: Socket = context.socket(zmq.ROUTER)
    router.curve_publickey, router.curve_secretkey, router.curve_server = bench.pair.public, bench.pair.secret, 1
    router.zap_domain = b"bus"
    port = router.bind_to_random_port("tcp://127.0.0.1")
    with pytest.raises(UnsafeError, match="let in a key") as caught:
        self_test(f"tcp://127.0.0.1:{port}", bench.pair.public)
    assert caught.value.exit_code == 78
    context.destroy(0)


def test_a_door_that_nobody_opens_fails_it_in_time(bench: Bench) -> None:
    with tcp.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(UnsafeError, match="could not see"):
            self_test(f"tcp://127.0.0.1:{reserved.getsockname()[1]}", bench.pair.public, timeout=0.2)


def become(bench: Bench, endpoint: str, server: bytes, seconds: float = DEADLINE) -> Connection | None:
    """What becomes of a stranger in this time."""
    stranger = Stranger(bench.context, endpoint, server)
    end = time.monotonic() + seconds
    became = None
    while became is None and time.monotonic() < end:
        stranger.events.poll(50)
        became = stranger.look(time.monotonic())
    stranger.close()
    return became


def test_only_the_right_broker_can_refuse_a_stranger(bench: Bench) -> None:
    assert become(bench, bench.bus_endpoint, bench.pair.public) is Connection.REFUSED
    assert become(bench, bench.bus_endpoint, generate().public) is Connection.HUNG_UP


def test_of_who_is_silent_or_not_there_a_stranger_knows_nothing(bench: Bench) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert become(bench, f"tcp://127.0.0.1:{port}", bench.pair.public, 0.3) is None
    assert become(bench, f"tcp://127.0.0.1:{port}", bench.pair.public, 0.3) is None


@pytest.mark.parametrize(
    ("became", "why"),
    [
        (Connection.REFUSED, Connection.LATER),
        (Connection.LATER, Connection.LATER),
        (Connection.HANDSHAKE_OK, Connection.LATER),
        (Connection.HUNG_UP, Connection.WRONG_SERVER),
        (Connection.WRONG_SERVER, Connection.WRONG_SERVER),
    ],
)
def test_what_follows_for_others(became: Connection, why: Connection) -> None:
    assert diagnosis(became) is why


# -- putting somebody out ----------------------------------------------------------------------


def test_a_revoked_peer_is_cut_and_does_not_come_back(bench: Bench) -> None:
    client, watch, hello = bench.enter()
    address = peer_address(hello.fd)
    assert address is not None
    bench.auth.swap(KeyTable([entry(hello.user_id, state=KeyState.REVOKED)]))
    assert cut(hello.fd, address)
    until(watch, Connection.DISCONNECTED)
    until(watch, Connection.CLOSED)
    assert watch.dead
    assert not sockets.send(client, None, [b"x"])


def test_only_the_one_that_is_meant_is_cut(bench: Bench) -> None:
    client, watch, hello = bench.enter()
    address = peer_address(hello.fd)
    assert address is not None
    assert not cut(hello.fd, address + "0")
    assert sockets.send(client, None, [b"still here"])
    assert bench.receive(1)[0].fd == hello.fd
    assert watch.read(time.monotonic()) == []


def test_keys_that_are_not_admitted_any_more_are_cut_and_no_others(bench: Bench) -> None:
    watch = PeerWatch(bench.router)
    (_, first, one), (client, second, other) = bench.enter(), bench.enter()
    silent, third = bench.worker()
    watch.delivered([one, other])
    assert watch.cut_keys(lambda public: True) == []
    assert watch.cut_keys(lambda public: public == other.user_id) == [one.routing_id]
    until(first, Connection.DISCONNECTED)
    # Of whom nothing has come it is not known who it is.
    for speaks, link in ((client, second), (silent, third)):
        assert sockets.send(speaks, None, [b"still here"])
        assert Connection.DISCONNECTED not in link.read(time.monotonic())
    assert {each.user_id for each in bench.receive(2)} >= {other.user_id}
    # Who was cut has left the books, or comes under a new routing id.
    eventually(lambda: watch.cut_keys(lambda public: public == other.user_id) == [])
    watch.close()


def test_who_is_closing_is_told_once_and_cut_later(bench: Bench) -> None:
    watch = PeerWatch(bench.router)
    (_, first, one), (_, second, other) = bench.enter(), bench.enter()
    watch.delivered([one, other])

    def all_but_one(public: bytes) -> bool:
        return public != one.user_id

    assert watch.closing(lambda public: True) == {}
    assert watch.closing(all_but_one) == {one.routing_id: one.user_id}
    assert watch.closing(all_but_one) == {}
    assert Connection.DISCONNECTED not in first.read(time.monotonic())
    # Let in again meanwhile, and put out anew: that is news.
    assert watch.closing(lambda public: True) == {}
    assert watch.closing(all_but_one) == {one.routing_id: one.user_id}
    assert watch.cut_keys(all_but_one) == [one.routing_id]
    until(first, Connection.DISCONNECTED)
    assert Connection.DISCONNECTED not in second.read(time.monotonic())
    watch.close()


def test_a_key_is_known_by_every_connection_that_it_has(bench: Bench) -> None:
    watch = PeerWatch(bench.router)
    pair = bench.enrol()
    links = []
    for _ in range(3):
        client, link = bench.dial(pair)
        until(link, Connection.HANDSHAKE_OK)
        assert sockets.send(client, None, [b"hello"])
        links.append(link)
    arrived = bench.receive(3)
    watch.delivered(arrived)
    assert set(watch.cut_keys(lambda public: False)) == {each.routing_id for each in arrived}
    for link in links:
        until(link, Connection.DISCONNECTED)
    watch.close()


def test_where_nobody_can_be_told_apart_all_are_cut_and_may_come_back(bench: Bench) -> None:
    watch = PeerWatch(bench.stats)
    good, bad = bench.enrol(Role.MONITOR), bench.enrol(Role.MONITOR)
    links = []
    for pair in (good, bad):
        dialled = sockets.connect_stats(bench.context, pair, bench.pair.public, bench.stats_endpoint, [b""])
        links.append(bench.keep(dialled)[1])
        until(links[-1], Connection.HANDSHAKE_OK)
    bench.enrol(Role.MONITOR, KeyState.REVOKED, bad)
    assert watch.cut_all() == 2
    until(links[0], Connection.DISCONNECTED)
    until(links[0], Connection.HANDSHAKE_OK)
    until(links[1], Connection.CLOSED)
    watch.close()


def test_descriptors_that_are_no_connection(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, tcp.socket() as idle:
        for fd in (file.fileno(), idle.fileno(), -1, 10_000_000):
            assert peer_address(fd) is None
            assert not cut(fd, "anything")
        file.write(b"still open")
        assert idle.fileno() > 0


def test_borrowing_leaks_no_descriptor(bench: Bench, tmp_path: Path) -> None:
    _, _, hello = bench.enter()
    with (tmp_path / "file").open("wb") as file:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(50):
            peer_address(hello.fd)
            peer_address(file.fileno())
            cut(hello.fd, "elsewhere")
            connections._fetched(hello.fd)
            connections._fetched(file.fileno())
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("size", [0, 1, 221, 222, 223, 255, 256, 1000, 100_000])
def test_what_is_delivered_is_counted_to_the_byte(bench: Bench, size: int) -> None:
    client, _, hello = bench.enter()
    before = connections._fetched(hello.fd)
    for _ in range(20):
        assert sockets.send(client, None, [b"CFB\x01", b"x" * size])
    batch = bench.receive(20)
    assert all(each.fd == hello.fd for each in batch)
    expected = sum(connections.wire_bytes(len(frame)) for each in batch for frame in each.frames)
    assert connections._fetched(hello.fd) - before == expected


class Tap:
    """A pipe of TCP in front of the broker that lets ``allowed`` bytes through, then holds the rest."""

    def __init__(self, endpoint: str, allowed: int) -> None:
        self._listener = tcp.create_server(("127.0.0.1", 0))
        self._target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._allowed = allowed
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.broken = threading.Event()
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def _pump(self) -> None:
        client, _ = self._listener.accept()
        with client, tcp.create_connection(self._target) as server:
            left = self._allowed
            try:
                while True:
                    wanted = [server, client] if left else [server]
                    for ready in select.select(wanted, [], [])[0]:
                        data = ready.recv(min(65536, left) if ready is client else 65536)
                        if not data:
                            return
                        left -= len(data) if ready is client else 0
                        (server if ready is client else client).sendall(data)
            except OSError:
                return
            finally:
                self.broken.set()

    def close(self) -> None:
        self._thread.join(DEADLINE)
        self._listener.close()
        assert not self._thread.is_alive()


def test_a_message_without_end_is_cut(bench: Bench) -> None:
    tap = Tap(bench.bus_endpoint, 12 * 1024 * 1024)
    watch = PeerWatch(bench.router)
    client, link, hello = bench.enter(tap.endpoint)
    watch.delivered([hello])
    assert watch.cut_endless() == 0
    # Frames of legal size, of which the last does not come through.
    assert sockets.send(client, None, [b"x" * 500_000] * 32)
    end = time.monotonic() + DEADLINE
    cuts = 0
    while not cuts:
        assert time.monotonic() < end
        watch.delivered(sockets.drain(bench.router, 10, Counter()))
        cuts = watch.cut_endless()
    assert cuts == 1
    assert tap.broken.wait(DEADLINE)
    link.close()
    client.close(0)
    tap.close()
    watch.close()


def test_a_busy_honest_peer_is_never_cut(bench: Bench) -> None:
    watch = PeerWatch(bench.router)
    client, link, hello = bench.enter()
    watch.delivered([hello])
    for _ in range(12):
        for _ in range(10):
            assert sockets.send(client, None, [b"CFB\x01", b"h" * 1000, b"x" * 256 * 1024])
        # Unread for as long as the pipe takes more: a broker that is busy elsewhere.
        assert bench.router.poll(60_000)
        assert watch.cut_endless() == 0
        batch = bench.receive(10)
        watch.delivered(batch)
        assert watch.cut_endless() == 0
    assert Connection.DISCONNECTED not in link.read(time.monotonic())
    watch.close()


def test_the_limit_of_open_files_is_raised_to_what_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        peers = peer_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1]
        assert soft >= min(before[1], 1024)
        assert 1 <= peers < soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
