"""Sockets over real TCP and real CURVE: what gets through, what is refused, what a client is told."""

from __future__ import annotations

import ctypes
import errno
import socket as tcp
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import zmq

from cfbus.bus import sockets
from cfbus.bus.auth import Authenticator, KeyEntry, KeyState, KeyTable
from cfbus.bus.keys import KeyPair, generate
from cfbus.bus.messages import MAX_FRAME_BYTES, Role
from cfbus.bus.sockets import Connection, ConnectionWatch, Inbound, Socket
from cfbus.errors import AddressInUseError, ConfigError

DEADLINE = 10.0
DOMAINS = {"bus": {Role.WORKER, Role.WRITER, Role.ADMIN}, "stats": {Role.MONITOR, Role.ADMIN}}


class Bench:
    """A broker's two ports with their ZAP handler, and clients to try them with."""

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
        pair = pair or generate()
        self.entries[pair.public] = KeyEntry(pair.public, role, state, "c-1", "test")
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

    def worker(self) -> tuple[Socket, ConnectionWatch]:
        client, watch = self.dial(self.enrol())
        until(watch, Connection.HANDSHAKE_OK)
        return client, watch

    def receive(self, count: int = 1) -> list[Inbound]:
        arrived: list[Inbound] = []
        end = time.monotonic() + DEADLINE
        while len(arrived) < count and time.monotonic() < end:
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


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(sockets, "_RECONNECT_MS", (20, 40))
    threads = set(threading.enumerate())
    made = Bench()
    # From here on, for the clients only.
    monkeypatch.setattr(sockets, "_HANDSHAKE_MS", 1000)
    yield made
    made.close()
    # pyzmq keeps one collector of zero-copy buffers per process.
    left = {each for each in threading.enumerate() if "garbage" not in type(each).__name__.lower()}
    assert left <= threads


def until(watch: ConnectionWatch, wanted: Connection, seconds: float = DEADLINE) -> list[Connection]:
    """Everything told up to and including ``wanted``."""
    told: list[Connection] = []
    end = time.monotonic() + seconds
    while wanted not in told:
        assert time.monotonic() < end, f"{wanted} never came: {told}"
        watch.events.poll(50)
        told += watch.read(time.monotonic())
    return told


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


# -- what the broker's ports are ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (zmq.CURVE_SERVER, 1),
        (zmq.MECHANISM, zmq.CURVE),
        (zmq.ZAP_ENFORCE_DOMAIN, 1),
        (zmq.HANDSHAKE_IVL, 5000),
        (zmq.LINGER, 2000),
        (zmq.RCVHWM, 16),
        (zmq.IPV6, 1),
        (zmq.BACKLOG, 1024),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.HEARTBEAT_IVL, 0),
        (zmq.HEARTBEAT_TIMEOUT, -1),
    ],
)
def test_both_ports_have_every_option(bench: Bench, option: int, value: int) -> None:
    assert bench.router.getsockopt(option) == value
    assert bench.stats.getsockopt(option) == value


def test_the_ports_differ_in_domain_and_size(bench: Bench) -> None:
    assert bench.router.getsockopt_string(zmq.ZAP_DOMAIN) == "bus"
    assert bench.stats.getsockopt_string(zmq.ZAP_DOMAIN) == "stats"
    assert bench.router.getsockopt(zmq.MAXMSGSIZE) == MAX_FRAME_BYTES + 33
    assert bench.stats.getsockopt(zmq.MAXMSGSIZE) == 64 * 1024 + 33


def test_a_port_in_use_is_named_with_what_to_do(bench: Bench) -> None:
    port = int(bench.bus_endpoint.rpartition(":")[2])
    for bind in (sockets.bind_bus, sockets.bind_stats):
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port}") as caught:
            bind(bench.context, bench.pair, "127.0.0.1", port)
        assert f"ss -ltnp 'sport = :{port}'" in caught.value.hint
        assert caught.value.exit_code == 75


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_not_ours(bench: Bench, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="Cannot listen on"):
        sockets.bind_bus(bench.context, bench.pair, host, port)


def test_a_port_given_up_can_be_bound_again(bench: Bench) -> None:
    socket, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", 0)
    socket.close(0)

    def bound() -> bool:
        try:
            again, same = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", port)
        except AddressInUseError:
            return False
        again.close(0)
        return same == port

    eventually(bound)


@pytest.mark.skipif(not tcp.has_ipv6, reason="no IPv6 here")
def test_ipv6(bench: Bench) -> None:
    try:
        socket, port = sockets.bind_bus(bench.context, bench.pair, "::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 loopback here")
    pair = bench.enrol()
    _, watch = bench.dial(pair, f"tcp://[::1]:{port}")
    until(watch, Connection.HANDSHAKE_OK)
    socket.close(0)


def test_routing_ids_start_where_nobody_can_know(bench: Bench) -> None:
    starts = []
    for _ in range(2):
        ctypes.CDLL(None).srand(7)
        bench.router.close(0)
        bench.router, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", 0)
        bench.bus_endpoint = f"tcp://127.0.0.1:{port}"
        client, _ = bench.worker()
        assert sockets.send(client, None, [b"x"])
        starts.append(bench.receive()[0].routing_id)
    bench.keep((bench.router, ConnectionWatch(bench.router)))
    assert starts[0] != starts[1]


# -- who gets in, and what the others are told -------------------------------------------------


def test_an_admitted_peer_is_known_by_its_key(bench: Bench) -> None:
    pair = bench.enrol()
    client, watch = bench.dial(pair)
    assert until(watch, Connection.HANDSHAKE_OK) == [Connection.CONNECTED, Connection.HANDSHAKE_OK]
    big = bytes(range(256)) * 1024
    assert sockets.send(client, None, [b"CFB\x01", b"header", big])
    (message,) = bench.receive()
    assert message.user_id == pair.public
    assert [bytes(each) for each in message.frames] == [b"CFB\x01", b"header", big]
    assert [type(each) for each in message.frames] == [bytes, bytes, memoryview]
    assert sockets.send(bench.router, message.routing_id, [b"answer", b""])
    assert client.poll(5000)
    assert sockets.drain_client(client, 10) == [[b"answer", b""]]
    assert not watch.dead


def test_every_message_carries_the_key_of_its_own_peer(bench: Bench) -> None:
    clients = {}
    for _ in range(5):
        pair = bench.enrol()
        clients[pair.public], watch = bench.dial(pair)
        until(watch, Connection.HANDSHAKE_OK)
    for number in range(40):
        for public, client in clients.items():
            assert sockets.send(client, None, [public, b"%d" % number])
    messages = bench.receive(200)
    assert len(messages) == 200
    assert all(message.user_id == message.frames[0] for message in messages)


def test_an_unknown_key_is_refused_for_good(bench: Bench) -> None:
    client, watch = bench.dial(generate())
    assert until(watch, Connection.REFUSED)[-1] is Connection.REFUSED
    assert watch.dead
    assert not sockets.send(client, None, [b"x"])
    assert not bench.router.poll(50)


def test_pending_waits_and_gets_in_once_approved(bench: Bench) -> None:
    pair = bench.enrol(state=KeyState.PENDING)
    client, watch = bench.dial(pair)
    until(watch, Connection.HUNG_UP)
    assert not watch.dead
    assert not sockets.send(client, None, [b"x"])
    bench.enrol(pair=pair)
    until(watch, Connection.HANDSHAKE_OK)
    assert sockets.send(client, None, [b"x"])
    assert bench.receive()[0].user_id == pair.public


def test_a_wrong_server_key(bench: Bench) -> None:
    _, watch = bench.dial(bench.enrol(), server=generate().public)
    told = until(watch, Connection.HUNG_UP)
    assert Connection.HANDSHAKE_OK not in told
    assert not watch.dead
    assert not bench.router.poll(50)


def test_a_client_without_encryption_is_refused(bench: Bench) -> None:
    client = bench.adopt(zmq.DEALER)
    watch = bench.keep((client, ConnectionWatch(client)))[1]
    client.connect(bench.bus_endpoint)
    client.send(b"x")
    until(watch, Connection.WRONG_SERVER)
    assert watch.dead
    assert not bench.router.poll(100)


def test_nobody_listens(bench: Bench) -> None:
    with tcp.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        _, watch = bench.dial(generate(), f"tcp://127.0.0.1:{reserved.getsockname()[1]}")
        until(watch, Connection.RETRYING)
        assert not watch.dead


def test_what_listens_is_no_broker(bench: Bench) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as listener:
        _, watch = bench.dial(generate(), f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        web, _ = listener.accept()
        with web:
            web.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n\r\n\r\n")
            until(watch, Connection.WRONG_SERVER)
        assert watch.dead


def test_what_listens_never_says_a_word(bench: Bench) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as listener:
        _, watch = bench.dial(generate(), f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        until(watch, Connection.HUNG_UP)
        assert not watch.dead


def test_a_broker_that_comes_back_is_found_again(bench: Bench) -> None:
    socket, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", 0)
    _, watch = bench.dial(bench.enrol(), f"tcp://127.0.0.1:{port}")
    until(watch, Connection.HANDSHAKE_OK)
    socket.close(0)
    assert until(watch, Connection.RETRYING)[0] is Connection.DISCONNECTED
    socket, _ = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", port)
    until(watch, Connection.HANDSHAKE_OK)
    assert not watch.dead
    socket.close(0)


@pytest.mark.parametrize("state", list(Connection))
def test_every_state_has_a_sentence(state: Connection) -> None:
    sentence = state.sentence("tcp://broker:7777")
    assert "tcp://broker:7777" in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("endpoint", ["broker:7777", "tcp://broker", "ipc:///tmp/x", "inproc://x", "tcp://*:1", ""])
def test_endpoints_that_are_none(bench: Bench, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="no broker's address"):
        sockets.connect_bus(bench.context, bench.pair, bench.pair.public, endpoint)


@pytest.mark.parametrize("server", [b"", b"short", b'"' * 40, b"x" * 41])
def test_server_keys_that_are_none(bench: Bench, server: bytes) -> None:
    with pytest.raises(ConfigError, match="not a key"):
        sockets.connect_bus(bench.context, bench.pair, server, bench.bus_endpoint)


# -- what goes through -------------------------------------------------------------------------


def test_an_oversize_frame_ends_only_its_connection(bench: Bench) -> None:
    bad, bad_watch = bench.worker()
    good, good_watch = bench.worker()
    assert sockets.send(bad, None, [b"x" * (MAX_FRAME_BYTES + 1)])
    until(bad_watch, Connection.DISCONNECTED)
    assert sockets.send(good, None, [b"y" * MAX_FRAME_BYTES])
    assert [len(each) for each in bench.receive()[0].frames] == [MAX_FRAME_BYTES]
    assert good_watch.read(time.monotonic()) == []
    until(bad_watch, Connection.HANDSHAKE_OK)


def test_an_oversize_answer_kills_the_client_and_the_watch_sees_it(bench: Bench) -> None:
    client, watch = bench.worker()
    assert sockets.send(client, None, [b"hello"])
    (hello,) = bench.receive()
    assert sockets.send(bench.router, hello.routing_id, [b"x" * (MAX_FRAME_BYTES + 1)])
    until(watch, Connection.DISCONNECTED)
    alive = not watch.dead
    assert alive
    assert watch.read(time.monotonic() + 60) == [Connection.WRONG_SERVER]
    assert watch.dead
    assert watch.read(time.monotonic() + 120) == []


def test_drain_takes_no_more_than_its_limit(bench: Bench) -> None:
    client, _ = bench.worker()
    for number in range(10):
        assert sockets.send(client, None, [b"%d" % number])
    assert bench.router.poll(5000)
    # All ten lie in the pipe, one beyond the first drain would be too many.
    eventually(lambda: bool(bench.router.poll(0)))
    taken = drained(bench.router, 10)
    assert [each.frames for each in taken] == [[b"%d" % number] for number in range(10)]
    assert sockets.drain(bench.router, 3, bench.dropped) == []


def test_a_chosen_routing_id_never_comes_up(bench: Bench) -> None:
    client = bench.adopt(zmq.DEALER)
    pair = bench.enrol()
    client.curve_publickey, client.curve_secretkey, client.curve_serverkey = (
        pair.public,
        pair.secret,
        bench.pair.public,
    )
    client.routing_id = b"broker"
    client.connect(bench.bus_endpoint)
    client.send(b"x")
    assert bench.router.poll(5000)
    assert sockets.drain(bench.router, 10, bench.dropped) == []
    assert bench.dropped == {"chosen-routing-id": 1}


def test_messages_without_a_vouched_key_never_come_up(bench: Bench) -> None:
    open_router = bench.adopt(zmq.ROUTER)
    port = open_router.bind_to_random_port("tcp://127.0.0.1")
    client = bench.adopt(zmq.DEALER)
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send_multipart([b"CFB\x01", b"x"])
    assert open_router.poll(5000)
    assert sockets.drain(open_router, 10, bench.dropped) == []
    assert bench.dropped == {"no-user-id": 1}


def test_a_message_of_too_many_frames_is_dropped_whole(bench: Bench) -> None:
    client, _ = bench.worker()
    assert sockets.send(client, None, [b"x"] * (sockets.FRAMES_LIMIT + 1))
    assert sockets.send(client, None, [b"y"] * sockets.FRAMES_LIMIT)
    assert [each.frames for each in bench.receive()] == [[b"y"] * sockets.FRAMES_LIMIT]
    assert bench.dropped == {"too-many-frames": 1}


def test_a_large_frame_is_passed_on_as_received(bench: Bench) -> None:
    worker, _ = bench.worker()
    writer, _ = bench.worker()
    assert sockets.send(writer, None, [b"hello"])
    (hello,) = bench.receive()
    big = bytes(range(256)) * 1024
    assert sockets.send(worker, None, [big, big[:-1]])
    (result,) = bench.receive()
    assert sockets.send(bench.router, hello.routing_id, [b"relay", *result.frames])
    kept = [bytes(each) for each in result.frames]
    assert writer.poll(5000)
    ((_, *relayed),) = sockets.drain_client(writer, 1)
    assert [bytes(each) for each in relayed] == [big, big[:-1]] == kept


def test_a_part_of_a_received_frame_can_be_sent(bench: Bench) -> None:
    client, _ = bench.worker()
    big = bytes(range(256)) * 1024
    assert sockets.send(client, None, [big])
    (message,) = bench.receive()
    view = message.frames[0]
    assert isinstance(view, memoryview)
    assert sockets.send(bench.router, message.routing_id, [view[1 : 1 + 40_000], view[:10]])
    assert client.poll(5000)
    assert [bytes(each) for each in sockets.drain_client(client, 1)[0]] == [big[1:40_001], big[:10]]


def test_nothing_is_sent_to_a_peer_that_is_not_there(bench: Bench) -> None:
    assert not sockets.send(bench.router, b"\x00none", [b"a", b"b"])
    client, watch = bench.worker()
    assert sockets.send(client, None, [b"hello"])
    (hello,) = bench.receive()
    watch.close()
    client.close(0)
    eventually(lambda: not sockets.send(bench.router, hello.routing_id, [b"a", b"b"]))
    other, _ = bench.worker()
    assert sockets.send(other, None, [b"still", b"whole"])
    assert bench.receive()[0].frames == [b"still", b"whole"]


def test_a_full_pipe_is_said_and_never_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_SEND_HWM", 4)
    monkeypatch.setattr(sockets, "_RECEIVE_HWM", 4)
    router, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", 0)
    client, watch = bench.dial(bench.enrol(), f"tcp://127.0.0.1:{port}")
    until(watch, Connection.HANDSHAKE_OK)
    payload = b"x" * 500_000
    # Nobody reads: the kernel and both pipes take some, then it is said.
    sent = 0
    while sockets.send(client, None, [b"%d" % sent, payload]):
        sent += 1
        assert sent < 1000
    got = drained(router, sent)
    assert [each.frames[0] for each in got] == [b"%d" % number for number in range(sent)]
    assert all(len(each.frames) == 2 for each in got)
    router.close(0)


def test_other_failures_of_send_are_not_hidden(bench: Bench) -> None:
    subscriber = bench.adopt(zmq.SUB)
    with pytest.raises(zmq.ZMQError) as caught:
        sockets.send(subscriber, None, [b"x"])
    assert caught.value.errno == errno.ENOTSUP


def test_stats_reach_a_monitor_and_only_the_topics_it_wants(bench: Bench) -> None:
    pair = bench.enrol(Role.MONITOR)
    client, watch = bench.keep(
        sockets.connect_stats(bench.context, pair, bench.pair.public, bench.stats_endpoint, [b"status"])
    )
    until(watch, Connection.HANDSHAKE_OK)
    assert bench.stats.poll(5000)
    assert sockets.drain_client(bench.stats, 10) == [[b"\x01status"]]
    assert sockets.send(bench.stats, None, [b"activity", b"1"])
    assert sockets.send(bench.stats, None, [b"status", b"2"])
    assert client.poll(5000)
    assert sockets.drain_client(client, 10) == [[b"status", b"2"]]


@pytest.mark.parametrize(("role", "domain"), [(Role.WORKER, "stats"), (Role.MONITOR, "bus")])
def test_a_role_stays_at_its_own_port(bench: Bench, role: Role, domain: str) -> None:
    pair = bench.enrol(role)
    if domain == "bus":
        _, watch = bench.dial(pair)
    else:
        _, watch = bench.keep(
            sockets.connect_stats(bench.context, pair, bench.pair.public, bench.stats_endpoint, [b""])
        )
    until(watch, Connection.REFUSED)
    assert watch.dead


def test_a_monitor_that_nobody_reads_stops_nothing(bench: Bench) -> None:
    noisy = bench.adopt(zmq.ROUTER)
    unread = sockets.monitor(noisy, zmq.EVENT_ALL)
    for _ in range(1500):
        noisy.bind("tcp://127.0.0.1:*")
        noisy.unbind(noisy.getsockopt_string(zmq.LAST_ENDPOINT))
    told = 0
    while unread.poll(100):
        unread.recv_multipart()
        told += 1
    assert told >= 3000
    noisy.disable_monitor()
    unread.close(0)
