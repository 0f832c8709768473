"""Whoever is not let in yet: bytes that are no ZMTP, handshakes that stop or are wrong, keys that nobody knows, floods.

What libzmq tells nobody (which connection failed, and why an old or a foreign client was hung up on) is noticed as a
connection on which nothing was ever said.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from abuse.conftest import FEW_FILES
from abuse.curve import Raw, announced, command, dial, frame, greeting
from abuse.rig import Bus
from processes.support import until

from cfbus.bus import keys

NEVER = "connection.never-spoke"
ERROR = b"\5ERROR\3"
DICE = random.Random(7)


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Attackers need descriptors too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _throw(bus: Bus, data: bytes) -> None:
    """A connection that says this and hangs up."""
    with dial(bus.port) as tcp, contextlib.suppress(OSError):
        tcp.sendall(data)
        tcp.shutdown(socket.SHUT_WR)
        tcp.recv(GREETING)


GREETING = 4096


def test_random_bytes_ten_thousand_times(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        for _ in range(5000):
            _throw(bus, DICE.randbytes(DICE.choice([1, 9, 64, 65, 300])))

    bus.survives(attack, NEVER, 5000)


def test_more_connections_than_descriptors(crowded: Bus) -> None:
    """Who says nothing makes room for who does, while the attacker still holds on."""

    def attack(bus: Bus) -> None:
        with ExitStack() as stack:
            for _ in range(FEW_FILES * 2):
                stack.enter_context(dial(bus.port))
            until(lambda: f"room: {bus.descriptors()}", lambda: bus.descriptors() < FEW_FILES - 100)
            bus.serve_an_honest_worker()

    crowded.survives(attack, NEVER, FEW_FILES)


def _until(stage: str) -> Callable[[Raw], Raw]:
    steps: dict[str, Callable[[Raw], Raw]] = {
        "connected": lambda raw: raw,
        "greeted": lambda raw: raw.greet(),
        "hello": lambda raw: raw.greet().hello().welcome(),
        "in": lambda raw: raw.enter(),
    }
    return steps[stage]


GARBAGE: dict[str, Callable[[], bytes]] = {
    "command": lambda: command(DICE.randbytes(40)),
    "message": lambda: frame(DICE.randbytes(300)),
    "long command": lambda: frame(b"\5HELLO" + bytes(194), 6),
    "nothing": lambda: frame(b""),
    "bytes": lambda: DICE.randbytes(100),
}


@pytest.mark.parametrize("stage", ["greeted", "hello"])
def test_garbage_at_each_stage(bus: Bus, stage: str) -> None:
    def attack(bus: Bus) -> None:
        for make in GARBAGE.values():
            for _ in range(10):
                with _until(stage)(bus.raw(bus.honest_pair)) as raw:
                    raw.put(make())
                    raw.tcp.shutdown(socket.SHUT_WR)
                    assert raw.ended()

    bus.survives(attack, NEVER, 50)


def test_garbage_where_messages_are_expected(bus: Bus) -> None:
    """A connection that is in and has said nothing yet."""

    def attack(bus: Bus) -> None:
        for make in GARBAGE.values():
            with bus.raw(bus.honest_pair).enter() as raw:
                raw.put(make())
                raw.tcp.shutdown(socket.SHUT_WR)
                assert raw.ended()

    bus.survives(attack, NEVER, 5)


def test_half_open_connections_by_the_thousand(bus: Bus) -> None:
    """They are hung up on after five seconds, and meanwhile others are served."""

    def attack(bus: Bus) -> None:
        with ExitStack() as opened:
            held = [opened.enter_context(dial(bus.port)) for _ in range(4000)]
            bus.serve_an_honest_worker()
            for tcp in held:
                tcp.settimeout(60)
                with contextlib.suppress(ConnectionResetError):
                    while tcp.recv(GREETING):
                        pass

    bus.survives(attack, NEVER, 4000)


def test_handshakes_that_stop(bus: Bus) -> None:
    """At each stage: hung up on after five seconds."""

    def attack(bus: Bus) -> None:
        with ExitStack() as opened:
            for stage in ("connected", "greeted", "hello"):
                held = [_until(stage)(opened.enter_context(bus.raw(bus.honest_pair))) for _ in range(20)]
                assert held
            for partly in (greeting()[:11], greeting()[:63]):
                raw = opened.enter_context(bus.raw(bus.honest_pair))
                raw.put(partly)
            assert raw.ended()
            assert all(each.ended() for each in held)

    bus.survives(attack, "handshake.unfinished", 60)


def hung_up_after(raw: Raw, byte: int) -> bool:
    """Whether it is hung up on within half a second after this byte."""
    raw.put(bytes([byte]))
    return raw.ended(0.5)


def test_a_byte_every_now_and_then(bus: Bus) -> None:
    """Progress of this kind does not prolong the time for a handshake."""

    def attack(bus: Bus) -> None:
        with bus.raw(bus.honest_pair) as raw:
            # All of it would take half a minute.
            assert any(hung_up_after(raw, byte) for byte in greeting())

    bus.survives(attack, NEVER)


@pytest.mark.parametrize("size", [1 << 62, 1 << 34, 512 * 1024 + 34, (1 << 64) - 1])
@pytest.mark.parametrize("stage", ["greeted", "hello", "in"])
def test_frames_announced_larger_than_any(bus: Bus, stage: str, size: int) -> None:
    def attack(bus: Bus) -> None:
        with _until(stage)(bus.raw(bus.honest_pair)) as raw:
            raw.put(announced(size))
            raw.put(bytes(1000))
            if size < 1 << 34 and stage != "in":
                with contextlib.suppress(OSError):  # it may be hung up on already
                    raw.tcp.shutdown(socket.SHUT_WR)
            assert raw.ended()

    bus.survives(attack, NEVER)


def _flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1 << DICE.randrange(8)
    return bytes(changed)


def _refused(raw: Raw) -> bool:
    """Whether we are not in; what is wrong is never answered."""
    try:
        raw.tcp.settimeout(6)
        raw.ready()
    except (OSError, TimeoutError):
        return True
    return False


def test_flipped_bits_over_hello(bus: Bus) -> None:
    """Each field: name, version, key, nonce, box."""
    places = [0, 3, 6, 7, 80, 100, 112, 119, 120, 140, 199]

    def attack(bus: Bus) -> None:
        for at in places:
            with bus.raw(bus.honest_pair) as raw:
                raw.greet().hello(partial(_flipped, at=at))
                assert raw.ended()

    bus.survives(attack, NEVER, len(places))


def test_a_short_and_a_long_hello(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        for wrong in (bytes, lambda body: body[:-1], lambda body: body + b"x", lambda body: body[:7]):
            with bus.raw(bus.honest_pair) as raw:
                raw.greet().hello(wrong)
                assert raw.ended()

    bus.survives(attack, NEVER, 4)


def test_flipped_bits_over_initiate(bus: Bus) -> None:
    places = [0, 3, 9, 30, 80, 104, 105, 112, 113, 130, 160, 200, -1]

    def attack(bus: Bus) -> None:
        for at in places:
            with bus.raw(bus.honest_pair) as raw:
                raw.greet().hello().welcome().initiate(partial(_flipped, at=at))
                assert _refused(raw)

    bus.survives(attack, NEVER, len(places))


def test_somebody_elses_vouch(bus: Bus) -> None:
    """The key of another with a vouch that only its owner could have made."""

    def attack(bus: Bus) -> None:
        with bus.raw(keys.KeyPair(bus.honest_pair.public, keys.generate().secret)) as raw:
            raw.greet().hello().welcome().initiate()
            assert _refused(raw)

    bus.survives(attack, NEVER)


@pytest.mark.parametrize("at", [0, 8, 15, 16, 20, -1])
def test_a_message_that_was_changed_on_the_way(bus: Bus, at: int) -> None:
    def attack(bus: Bus) -> None:
        for _ in range(6):
            with bus.client(bus.honest_pair) as peer:
                peer.raw.put(peer.raw.sealed(b"CFB\1", more=True, mangle=lambda body: _flipped(body, at)))
                assert peer.raw.ended()

    bus.survives(attack, "connection.broke-off", 6)


def test_a_message_that_comes_twice(bus: Bus) -> None:
    """Recorded and sent again: its nonce is spent."""

    def attack(bus: Bus) -> None:
        with bus.client(bus.honest_pair) as peer:
            sealed = peer.raw.sealed(b"CFB\1", more=True)
            peer.raw.put(sealed + sealed)
            assert peer.raw.ended()

    bus.survives(attack, "connection.broke-off")


@pytest.mark.parametrize(
    "properties",
    [
        [(b"Socket-Type", b"PUB")],
        [(b"Socket-Type", b"ROUTER\xff" * 100)],
        [(b"Socket-Type", b"DEALER"), *[(b"X" * 200, b"y" * 1000)] * 100],
        [(b"", b"")],
    ],
)
def test_odd_properties(bus: Bus, properties: list[tuple[bytes, bytes]]) -> None:
    """What a client says of itself in the handshake is believed in nothing; whoever is let in speaks as its key."""

    def attack(bus: Bus) -> None:
        with bus.raw(bus.honest_pair) as raw:
            raw.greet().hello().welcome().initiate(properties=properties)
            raw.tcp.shutdown(socket.SHUT_WR)
            assert raw.ended()

    bus.survives(attack, NEVER)


def test_unknown_keys_in_a_flood(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        for _ in range(300):
            with bus.raw(keys.generate()) as raw:
                raw.greet().hello().welcome().initiate()
                assert _refused(raw)

    bus.survives(attack, "door.unknown", 300)


def _said(raw: Raw) -> bytes:
    """The next frame; nothing if we are hung up on without one."""
    try:
        return raw.take_frame()[1]
    except ConnectionError:
        return b""


def test_a_revoked_key_in_a_flood(bus: Bus) -> None:
    """Whoever has its secret half is told that it is closed, and let in no more than one that nobody knows."""
    pair = bus.key()
    bus.revoke(pair)

    def attack(bus: Bus) -> None:
        for _ in range(300):
            with bus.raw(pair) as raw:
                assert _said(raw.greet().hello().welcome().initiate()) == ERROR + b"500"
                raw.put(frame(b"let me in all the same"))
                assert raw.ended()

    bus.survives(attack, "door.revoked", 300)


def test_what_became_of_a_key_is_told_to_its_owner_alone(bus: Bus) -> None:
    pair = bus.key()
    bus.revoke(pair)

    def attack(bus: Bus) -> None:
        with bus.raw(keys.KeyPair(pair.public, keys.generate().secret)) as raw:
            assert _said(raw.greet().hello().welcome().initiate()) == b""

    before = bus.counters.read().get("door.revoked", 0)
    bus.survives(attack, NEVER)
    assert bus.counters.read().get("door.revoked", 0) == before


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"GSSAPI", b"", b"CURVE\0X"])
def test_other_mechanisms(bus: Bus, mechanism: bytes) -> None:
    def attack(bus: Bus) -> None:
        for _ in range(20):
            with bus.raw(bus.honest_pair) as raw:
                raw.put(greeting(mechanism))
                assert raw.ended()

    bus.survives(attack, NEVER, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x01\x00" + b"\x02\x00x",
        b"\xff" + bytes(8) + b"\x7f\x00" + bytes(60),
        b"\xff" + bytes(8) + b"\x7f\x01\x05" + bytes(60),
        b"\xff" + bytes(8) + b"\x7f\x02" + bytes(60),
        b"\0" * 1000,
    ],
    ids=["http", "tls", "ssh", "zmtp 1", "zmtp 1 as 2", "zmtp 2", "zmtp 2.1", "zeros"],
)
def test_clients_of_something_else(bus: Bus, data: bytes) -> None:
    """HTTP, TLS, ssh, and ZMTP as it was before there was CURVE."""

    def attack(bus: Bus) -> None:
        for _ in range(10):
            _throw(bus, data)

    bus.survives(attack, NEVER, 10)


def test_the_door_of_the_statistics(bus: Bus) -> None:
    """A worker's key is not let in there."""

    def attack(bus: Bus) -> None:
        with Raw(bus.stats_port, bus.server, bus.honest_pair) as raw:
            raw.greet().hello().welcome().initiate(properties=[(b"Socket-Type", b"SUB")])
            assert _refused(raw)
        for _ in range(20):
            with dial(bus.stats_port) as tcp:
                tcp.sendall(os.urandom(100))

    bus.survives(attack, "door.wrong-role")
