"""Who is let in and sends what is no message: each refusal has its name, and none costs more than its length."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgpack
import pytest
from abuse.rig import Bus

from cfbus.bus.fields import MAX_HEADER_BYTES
from cfbus.bus.wire import MAGIC

HELLO = {"t": "HELLO", "role": "worker", "instance": "0123456789abcdef", "software": "t", "name": "n"}


def header(**changed: object) -> bytes:
    """A HELLO, but for this."""
    packed: bytes = msgpack.packb({**HELLO, **changed}, use_bin_type=True)
    return packed


def lease(want: bytes) -> bytes:
    """A LEASE that wants these bytes of msgpack."""
    return b"\x83\xa1t\xa5LEASE\xa4rate\xcb" + bytes(8) + b"\xa4want" + want


WRONG: dict[str, tuple[list[bytes], str]] = {
    "another magic": ([b"HTTP", header()], "magic"),
    "another version": ([b"CFB\x63", header()], "version"),
    "a type that is another": ([MAGIC, header(name=7)], "fields"),
    "a number for an id": ([MAGIC, header(instance=7)], "fields"),
    "a missing field": ([MAGIC, msgpack.packb({"t": "HELLO", "role": "worker"})], "fields"),
    "an unknown field": ([MAGIC, header(admin=True)], "fields"),
    "NaN": ([MAGIC, msgpack.packb({"t": "LEASE", "want": 1, "rate": float("nan")})], "fields"),
    "infinity": ([MAGIC, msgpack.packb({"t": "LEASE", "want": 1, "rate": float("inf")})], "fields"),
    "a bool for an int": ([MAGIC, lease(b"\xc3")], "fields"),
    "a float for an int": ([MAGIC, lease(b"\xcb" + struct.pack(">d", 3.0))], "fields"),
    "2^64 - 1": ([MAGIC, lease(b"\xcf" + b"\xff" * 8)], "fields"),
    "-1": ([MAGIC, lease(b"\xff")], "fields"),
    "0": ([MAGIC, lease(b"\0")], "fields"),
    "10^9": ([MAGIC, lease(b"\xce" + struct.pack(">I", 10**9))], "fields"),
    "a number as text": ([MAGIC, lease(b"\xa13")], "fields"),
    "a lone surrogate": ([MAGIC, b"\x81\xa1t\xa3\xed\xa0\x80"], "msgpack"),
    "bad UTF-8": ([MAGIC, b"\x81\xa1t\xa2\xff\xfe"], "msgpack"),
    "lists in lists in lists": ([MAGIC, b"\x91" * 65_000], "msgpack"),
    "100,000 lists in lists": ([MAGIC, b"\x91" * 100_000], "header-size"),
    "maps in maps": ([MAGIC, b"\x81\xa1a" * 20_000], "msgpack"),
    "a list of 2^32 - 1": ([MAGIC, b"\xdd\xff\xff\xff\xff"], "msgpack"),
    "a map of 2^32 - 1": ([MAGIC, b"\xdf\xff\xff\xff\xff"], "msgpack"),
    "bytes of 2^32 - 1": ([MAGIC, b"\xc6\xff\xff\xff\xff"], "msgpack"),
    "a text of 2^32 - 1": ([MAGIC, b"\xdb\xff\xff\xff\xff"], "msgpack"),
    "an ext type": ([MAGIC, b"\x81\xa1t\xd4\x05\x00"], "msgpack"),
    "a timestamp": ([MAGIC, b"\x81\xa1t\xd6\xff\x00\x00\x00\x00"], "msgpack"),
    "empty lists": ([MAGIC, b"\xdc\xff\xff" + b"\x90" * 0xFFFF], "header-size"),
    "64,000 empty lists": ([MAGIC, b"\xdc\xf9\xff" + b"\x90" * 0xF9FF], "header"),
    "a key twice": ([MAGIC, b"\x82\xa1t\xa5HELLO\xa1t\xa3BYE" + b"x"], "msgpack"),
    "keys that are numbers": ([MAGIC, b"\x81\x01\x01"], "msgpack"),
    "something after the end": ([MAGIC, header() + b"\0"], "msgpack"),
    "no frames": ([b""], "frames"),
    "one frame": ([MAGIC], "frames"),
    "five frames": ([MAGIC, header(), b"", b"", b""], "frames"),
    "a payload where none is": ([MAGIC, header(), b"x"], "frames"),
    "no payload where one is": ([MAGIC, msgpack.packb({"t": "RESULT"})], "frames"),
    "a tag that is none": ([MAGIC, header(t="SUDO")], "tag"),
    "a tag that is a list": ([MAGIC, header(t=["HELLO"])], "tag"),
    "a header too large": ([MAGIC, bytes(MAX_HEADER_BYTES + 1)], "header-size"),
}


@pytest.mark.parametrize(("frames", "code"), WRONG.values(), ids=WRONG)
def test_what_is_no_message(bus: Bus, frames: Sequence[bytes], code: str) -> None:
    def attack(bus: Bus) -> None:
        with bus.client() as peer:
            for _ in range(3):
                peer.raw.send(*frames)
            assert peer.error() == code
            peer.join()  # it may go on, in peace

    bus.survives(attack, f"message.{code}", 3)


def test_more_frames_than_any_message_has(bus: Bus) -> None:
    def attack(bus: Bus) -> None:
        with bus.client(bus.key()) as peer:
            peer.raw.send(*[b""] * 9)
            peer.raw.send(*[b"x" * 1000] * 1000)
            peer.join()

    bus.survives(attack, "dropped.too-many-frames", 2)


def test_a_million_empty_frames(bus: Bus) -> None:
    """The watchdog cuts it when it is far ahead of what was delivered."""
    key = bus.key()

    def attack(bus: Bus) -> None:
        with bus.client(key) as peer:
            part = peer.raw.sealed(b"", more=True)
            assert part
            for _ in range(50):
                peer.raw.put(b"".join(peer.raw.sealed(b"", more=True) for _ in range(10_000)))
            assert peer.raw.ended()

    bus.survives(attack, "cut.endless")


def test_a_message_without_end(bus: Bus) -> None:
    key = bus.key()

    def attack(bus: Bus) -> None:
        with bus.client(key) as peer:
            for _ in range(40):
                peer.raw.put(peer.raw.sealed(bytes(500_000), more=True))
            assert peer.raw.ended()

    bus.survives(attack, "cut.endless")


def test_who_is_refused_all_the_time_is_cut_and_then_suspended(bus: Bus) -> None:
    """And is answered once a second, not each time."""
    pair = bus.key()
    before = bus.counters.read()
    for _ in range(3):
        with bus.client(pair) as peer:
            for _ in range(220):
                peer.raw.send(b"x", b"y")
            assert peer.raw.ended()
    bus.moved(before, "cut.limit", 1)
    bus.moved(before, "key.suspended", 1)
    bus.moved(before, "message.magic", 600)
    assert not bus.admits(pair)
    bus.moved(before, "door.suspended", 1)
    bus.serve_an_honest_worker()
