"""A ZMTP client by hand, CURVE and all, so that each byte of it can be wrong: greeting, HELLO, INITIATE, MESSAGE.

Knows ZMTP 3.1 and CurveZMQ; nothing of cfbus but that its frames are bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence

from nacl import bindings
from zmq.utils import z85

from cfbus.bus.keys import KeyPair

TIMEOUT = 60.0
"""Only what is wrong takes so long: the broker hangs up after five seconds at most, and may stand still before it."""
GREETING_BYTES = 64
Mangle = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    """Nothing is wrong with it."""
    return data


def greeting(mechanism: bytes = b"CURVE", version: tuple[int, int] = (3, 1)) -> bytes:
    """What both sides begin with."""
    return b"\xff" + bytes(8) + b"\x7f" + bytes(version) + mechanism.ljust(20, b"\0") + bytes(32)


def command(body: bytes) -> bytes:
    """A command frame."""
    return frame(body, 4)


def frame(body: bytes, flags: int = 0) -> bytes:
    """Any frame."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def announced(size: int, flags: int = 2) -> bytes:
    """The head of a long frame of this size, and nothing of it."""
    return bytes([flags]) + struct.pack(">Q", size)


def metadata(properties: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Properties as INITIATE carries them."""
    return b"".join(bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties)


def dial(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A TCP connection to the broker."""
    # A port that is asked for before the other end is known cannot be one that lately was another connection's; after
    # tens of thousands of connections there might be none.
    own = None if source == "127.0.0.1" else (source, 0)
    return socket.create_connection(("127.0.0.1", port), TIMEOUT, source_address=own)


class Raw:
    """One connection, by one key, to one server. Each step is a call; what is sent can be mangled."""

    def __init__(self, port: int, server: bytes, pair: KeyPair, source: str = "127.0.0.1") -> None:
        self.tcp = dial(port, source)
        self._server = z85.decode(server)
        self._public, self._secret = z85.decode(pair.public), z85.decode(pair.secret)
        self._mine, self._mine_secret = bindings.crypto_box_keypair()
        self._theirs = b""
        self._cookie = b""
        self._key = b""
        self._nonce = 0
        self._unread = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.tcp.close()

    # ------------------------------------------------------------------ bytes

    def put(self, data: bytes) -> None:
        """Bytes, as they are. Whether the other side still takes them is not our business."""
        with contextlib.suppress(OSError):
            self.tcp.sendall(data)

    def take(self, size: int) -> bytes:
        """Exactly so many bytes; ``ConnectionError`` when it ends before."""
        while len(self._unread) < size:
            more = self.tcp.recv(65536)
            if not more:
                raise ConnectionResetError("hung up")
            self._unread += more
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def ended(self, seconds: float = TIMEOUT) -> bool:
        """Whether the other side hangs up within this time, whatever it says until then."""
        self.tcp.settimeout(seconds)
        try:
            while self.tcp.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def take_frame(self) -> tuple[int, bytes]:
        """Flags and body of the next frame."""
        (flags,) = self.take(1)
        size = struct.unpack(">Q", self.take(8))[0] if flags & 2 else self.take(1)[0]
        return flags, self.take(size)

    # ------------------------------------------------------------------ the handshake

    def greet(self, mechanism: bytes = b"CURVE", version: tuple[int, int] = (3, 1)) -> Raw:
        """Greetings are exchanged."""
        self.put(greeting(mechanism, version))
        self.take(GREETING_BYTES)
        return self

    def _short_nonce(self) -> bytes:
        self._nonce += 1
        return struct.pack(">Q", self._nonce)

    def hello(self, mangle: Mangle = same) -> Raw:
        """HELLO is sent."""
        nonce = self._short_nonce()
        box = bindings.crypto_box(bytes(64), b"CurveZMQHELLO---" + nonce, self._server, self._mine_secret)
        self.put(command(mangle(b"\5HELLO\1\0" + bytes(72) + self._mine + nonce + box)))
        return self

    def welcome(self) -> Raw:
        """WELCOME has come."""
        _, body = self.take_frame()
        if body[:8] != b"\7WELCOME":
            raise ConnectionResetError(f"no WELCOME: {body[:20]!r}")
        box = bindings.crypto_box_open(body[24:], b"WELCOME-" + body[8:24], self._server, self._mine_secret)
        self._theirs, self._cookie = box[:32], box[32:]
        self._key = bindings.crypto_box_beforenm(self._theirs, self._mine_secret)
        return self

    def initiate(
        self,
        mangle: Mangle = same,
        properties: Sequence[tuple[bytes, bytes]] = ((b"Socket-Type", b"DEALER"), (b"Identity", b"")),
    ) -> Raw:
        """INITIATE is sent."""
        vouch_nonce = os.urandom(16)
        vouch = bindings.crypto_box(self._mine + self._server, b"VOUCH---" + vouch_nonce, self._theirs, self._secret)
        nonce = self._short_nonce()
        said = self._public + vouch_nonce + vouch + metadata(properties)
        box = bindings.crypto_box_afternm(said, b"CurveZMQINITIATE" + nonce, self._key)
        self.put(command(mangle(b"\x08INITIATE" + self._cookie + nonce + box)))
        return self

    def ready(self) -> Raw:
        """READY has come: we are in."""
        _, body = self.take_frame()
        if body[:6] != b"\5READY":
            raise ConnectionRefusedError(f"no READY: {body[:20]!r}")
        return self

    def enter(self) -> Raw:
        """The whole handshake."""
        return self.greet().hello().welcome().initiate().ready()

    # ------------------------------------------------------------------ messages

    def sealed(self, body: bytes, *, more: bool = False, mangle: Mangle = same) -> bytes:
        """A MESSAGE frame that holds one frame of a message."""
        nonce = self._short_nonce()
        box = bindings.crypto_box_afternm(bytes([more]) + body, b"CurveZMQMESSAGEC" + nonce, self._key)
        return frame(mangle(b"\7MESSAGE" + nonce + box))

    def send(self, *frames: bytes) -> None:
        """A message of these frames."""
        last = len(frames) - 1
        self.put(b"".join(self.sealed(body, more=number < last) for number, body in enumerate(frames)))

    def receive(self) -> list[bytes]:
        """The next message."""
        frames = []
        more = True
        while more:
            _, body = self.take_frame()
            if body[:8] != b"\7MESSAGE":
                raise ConnectionResetError(f"no MESSAGE: {body[:20]!r}")
            nonce, box = body[8:16], body[16:]
            opened = bindings.crypto_box_open_afternm(box, b"CurveZMQMESSAGES" + nonce, self._key)
            more = bool(opened[0] & 1)
            frames.append(opened[1:])
        return frames
