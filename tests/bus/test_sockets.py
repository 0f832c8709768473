"""Sockets over real TCP and real CURVE: what the ports are, who gets through, what a client is told."""

from __future__ import annotations

import ctypes
import socket as tcp

import pytest
import zmq
from bus_harness import DEADLINE, Bench, eventually, outcome, until
from processes.support import free_port

from cfbus.bus import sockets
from cfbus.bus.auth import KeyState
from cfbus.bus.keys import generate
from cfbus.bus.messages import MAX_FRAME_BYTES
from cfbus.bus.sockets import Connection, ConnectionWatch
from cfbus.errors import AddressInUseError, ConfigError

GREETING_BYTES, HELLO_BYTES = 64, 202

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
    socket, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", free_port())
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
    assert client.poll(60_000)
    assert sockets.drain_client(client, 10) == [[b"answer", b""]]
    assert not watch.dead


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"300", Connection.LATER),
        (b"400", Connection.REFUSED),
        (b"500", Connection.CLOSED),
        (b"600", Connection.WRONG_SERVER),
        (b"why", Connection.WRONG_SERVER),
    ],
)
def test_what_a_refusal_says(bench: Bench, status: bytes, expected: Connection) -> None:
    """From a door of another make; that it is not signed is why anybody could say it."""
    with tcp.create_server(("127.0.0.1", 0)) as door:
        _, watch = bench.dial(generate(), f"tcp://127.0.0.1:{door.getsockname()[1]}")
        door.settimeout(DEADLINE)
        client, _ = door.accept()
        with client:
            client.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\1" + bytes(31))
            client.settimeout(DEADLINE)
            # A client that has not said HELLO yet takes any word for a broken protocol.
            assert len(client.makefile("rb").read(GREETING_BYTES + HELLO_BYTES)) == GREETING_BYTES + HELLO_BYTES
            client.sendall(b"\4\x0a\5ERROR" + bytes([len(status)]) + status)
            assert outcome(watch, Connection.LATER) is expected
        assert watch.dead


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
    socket, port = sockets.bind_bus(bench.context, bench.pair, "127.0.0.1", free_port())
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
