"""libzmq sockets as this bus uses them: made, filled, emptied, watched.

Knows libzmq 4.3.5. Must not know what frames mean, nor who may say what: it hands up the key that
libzmq vouches for (``User-Id``, set by the ZAP handler) and leaves the rest to others.

Invariants:
- A bound port has CURVE, a ZAP domain and ``ZAP_ENFORCE_DOMAIN``: without the last, libzmq admits
  everybody when the handler is gone.
- Nothing here blocks.
- A message without a vouched key, or from a peer that chose its own routing id, never comes up.
- No ``ZMQ_HEARTBEAT_*``: with it, a peer that dies while the broker is busy can abort the broker.
"""

from __future__ import annotations

import ctypes
import errno
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import zmq

from cfbus.bus.following import Connection as Connection
from cfbus.bus.following import ConnectionWatch as ConnectionWatch
from cfbus.bus.following import monitor as monitor
from cfbus.bus.keys import KeyPair
from cfbus.bus.messages import MAX_FRAME_BYTES
from cfbus.errors import AddressInUseError, ConfigError

Context: TypeAlias = zmq.Context[zmq.Socket[bytes]]
Socket: TypeAlias = zmq.Socket[bytes]
Buffer: TypeAlias = bytes | memoryview

BUS_DOMAIN: Final = "bus"
STATS_DOMAIN: Final = "stats"
FEED_DOMAIN: Final = "feed"
_STATS_MESSAGE_LIMIT: Final = 64 * 1024
_FETCH_MESSAGE_LIMIT: Final = 64 * 1024
FRAMES_LIMIT: Final = 8
COPY_BELOW: Final = 32 * 1024
SEALING_BYTES: Final = 33  # what CURVE adds to a frame; libzmq counts it against MAXMSGSIZE

# Whole messages per peer, not bytes: 16 of the largest are 8 MiB. Measured on one connection, 64 KiB
# messages run as fast as with 1000; 1 KiB messages at three quarters of it, 80 thousand a second.
_RECEIVE_HWM: Final = 16
_LAST, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
# Above the messages of any window: windows bound what is under way, a full pipe is an alarm.
_SEND_HWM: Final = 65_536
_STATS_HWM: Final = 256
_LINGER_MS: Final = 2_000
_HANDSHAKE_MS: Final = 5_000
_RECONNECT_MS: Final = (500, 1_500)
_RECONNECT_MAX_MS: Final = (20_000, 30_000)
_AUTOMATIC_ID_BYTES: Final = 5


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message of one peer: ``user_id`` is its key (Z85), ``frames`` are without the routing id.

    ``fd`` is the connection's descriptor inside libzmq, good only for ``connections.cut`` and its kin.
    Frames of at least ``COPY_BELOW`` bytes are views into libzmq's own memory.
    """

    routing_id: bytes
    user_id: bytes
    fd: int
    frames: list[Buffer]


def bind_bus(context: Context, pair: KeyPair, host: str, port: int) -> tuple[Socket, int]:
    """The broker's ROUTER and its port (0 asks for a free one).

    Raises ``AddressInUseError`` if somebody listens there, ``ConfigError`` if the address is not ours.
    """
    socket = _router(context, pair, BUS_DOMAIN, MAX_FRAME_BYTES)
    return socket, _bind(socket, host, port)


def bind_feed(context: Context, pair: KeyPair, host: str, port: int) -> tuple[Socket, int]:
    """A feeder's ROUTER and its port; what workers say to it is small. Errors as ``bind_bus``."""
    socket = _router(context, pair, FEED_DOMAIN, _FETCH_MESSAGE_LIMIT)
    return socket, _bind(socket, host, port)


def _router(context: Context, pair: KeyPair, domain: str, message_limit: int) -> Socket:
    # libzmq counts routing ids up from C's rand, which nobody seeds; who knows one can abort the broker.
    ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    socket = _server(context, zmq.ROUTER, pair, domain, message_limit)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.rcvhwm, socket.sndhwm = _RECEIVE_HWM, _SEND_HWM
    return socket


def bind_stats(context: Context, pair: KeyPair, host: str, port: int) -> tuple[Socket, int]:
    """The broker's XPUB and its port; a subscriber that cannot keep up misses messages. Errors as ``bind_bus``."""
    socket = _server(context, zmq.XPUB, pair, STATS_DOMAIN, _STATS_MESSAGE_LIMIT)
    socket.rcvhwm, socket.sndhwm = _RECEIVE_HWM, _STATS_HWM
    return socket, _bind(socket, host, port)


def connect_bus(context: Context, pair: KeyPair, server_public: bytes, endpoint: str) -> tuple[Socket, ConnectionWatch]:
    """A DEALER that dials ``endpoint`` (``tcp://host:port``) and the watch over its connection.

    It sends only while connected. Raises ``ConfigError`` for an endpoint or server key that is none.
    """
    socket = _client(context, zmq.DEALER, pair, server_public, MAX_FRAME_BYTES)
    socket.rcvhwm, socket.sndhwm = _RECEIVE_HWM, _SEND_HWM
    socket.immediate = 1
    return socket, _connect(socket, endpoint)


def connect_stats(
    context: Context, pair: KeyPair, server_public: bytes, endpoint: str, topics: Iterable[bytes]
) -> tuple[Socket, ConnectionWatch]:
    """A SUB on ``topics`` (prefixes) and the watch over its connection. Errors as ``connect_bus``."""
    socket = _client(context, zmq.SUB, pair, server_public, _STATS_MESSAGE_LIMIT)
    socket.rcvhwm = _STATS_HWM
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    return socket, _connect(socket, endpoint)


def drain(router: Socket, limit: int, dropped: Counter[str]) -> list[Inbound]:
    """What has arrived at a ROUTER, at most ``limit`` messages, without waiting.

    Messages that must not come up count towards the limit and, by reason, in ``dropped``.
    """
    arrived: list[Inbound] = []
    for _ in range(limit):
        try:
            first = router.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            break
        message = _receive(router, first, dropped)
        if message is not None:
            arrived.append(message)
    return arrived


def drain_client(socket: Socket, limit: int) -> list[list[Buffer]]:
    """What has arrived at a DEALER, SUB or XPUB, at most ``limit`` messages, without waiting."""
    arrived: list[list[Buffer]] = []
    for _ in range(limit):
        try:
            first = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            break
        arrived.append([_content(first), *_rest(socket, first)])
    return arrived


def send(socket: Socket, routing_id: bytes | None, frames: Sequence[Buffer]) -> bool:
    """Hand a message to libzmq without waiting; ``False`` if it did not take it (peer gone, pipe full).

    ``True`` promises nothing about arrival. Frames must never be changed afterwards: large ones are
    not copied.
    """
    parts = frames if routing_id is None else (routing_id, *frames)
    last, taken = len(parts) - 1, True
    for number, part in enumerate(parts):
        flags = _MORE if number < last else _LAST
        try:
            _send_part(socket, part, flags)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EAGAIN, errno.EHOSTUNREACH, errno.EFAULT):
                raise
            if number == 0:
                return False
            # The connection broke in mid-message. libzmq throws away all up to the last frame, so
            # the rest has to be given to it, or it would eat the next message instead.
            taken = False
    return taken


def _server(context: Context, kind: int, pair: KeyPair, domain: str, message_limit: int) -> Socket:
    socket = _socket(context, kind, pair, message_limit)
    socket.curve_server = 1
    socket.zap_domain = domain.encode()
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.backlog = 1024
    return socket


def _client(context: Context, kind: int, pair: KeyPair, server_public: bytes, message_limit: int) -> Socket:
    socket = _socket(context, kind, pair, message_limit)
    try:
        socket.curve_serverkey = server_public
    except zmq.ZMQError:
        socket.close()
        raise ConfigError("The broker's public key is not a key.", "Copy it from the broker again.") from None
    # libzmq's own jitter is small beside the longest pause, so that pause is drawn too: a thousand
    # peers must not come back in the same half second.
    socket.reconnect_ivl = random.randint(*_RECONNECT_MS)  # noqa: S311 - spreads load, hides nothing
    socket.reconnect_ivl_max = random.randint(*_RECONNECT_MAX_MS)  # noqa: S311
    return socket


def _socket(context: Context, kind: int, pair: KeyPair, message_limit: int) -> Socket:
    socket = context.socket(kind)
    socket.curve_publickey, socket.curve_secretkey = pair.public, pair.secret
    socket.maxmsgsize = message_limit + SEALING_BYTES
    socket.linger = _LINGER_MS
    socket.handshake_ivl = _HANDSHAKE_MS
    socket.ipv6 = 1
    socket.copy_threshold = COPY_BELOW
    # A peer that vanished without a word is noticed after two minutes.
    socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, 60
    socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 15, 4
    return socket


def _bind(socket: Socket, host: str, port: int) -> int:
    address = f"[{host}]:{port or '*'}" if ":" in host else f"{host}:{port or '*'}"
    try:
        if not 0 <= port <= 0xFFFF:
            # libzmq would listen on the remainder.
            raise zmq.ZMQError(errno.EINVAL)
        socket.bind(f"tcp://{address}")
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"Another program already listens on {address}.",
                f"See which with `ss -ltnp 'sport = :{port}'`; stop it, or choose another port.",
            ) from None
        raise ConfigError(
            f"Cannot listen on {address}: {error.strerror}.",
            "Name an address of this machine (`ip address` lists them; 0.0.0.0 means all) and a free port.",
        ) from None
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def _connect(socket: Socket, endpoint: str) -> ConnectionWatch:
    # The watch comes first: what happens before it exists is never told.
    watch = ConnectionWatch(socket)
    try:
        if not endpoint.startswith("tcp://"):
            raise zmq.ZMQError(errno.EINVAL)
        socket.connect(endpoint)
    except zmq.ZMQError:
        watch.close()
        socket.close()
        raise ConfigError(f"{endpoint!r} is no broker's address.", "One looks like tcp://host:7777.") from None
    return watch


def _receive(router: Socket, first: zmq.Frame, dropped: Counter[str]) -> Inbound | None:
    # Every frame carries the connection's properties, the routing id too: measured, this reads at
    # 80 thousand messages a second where recv_multipart(copy=False) stops at 58.
    frames = _rest(router, first)
    routing_id = first.bytes
    try:
        user_id = str(first.get("User-Id")).encode()
    except zmq.ZMQError:
        dropped["no-user-id"] += 1
        return None
    if len(routing_id) != _AUTOMATIC_ID_BYTES or routing_id[0] != 0:
        dropped["chosen-routing-id"] += 1
        return None
    if len(frames) > FRAMES_LIMIT:
        dropped["too-many-frames"] += 1
        return None
    return Inbound(routing_id, user_id, int(first.get(zmq.SRCFD)), frames)


def _rest(socket: Socket, first: zmq.Frame) -> list[Buffer]:
    """The frames after ``first``; from one too many on they are read and let go."""
    frames: list[Buffer] = []
    more = first.more
    while more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        more = frame.more
        if len(frames) <= FRAMES_LIMIT:
            frames.append(_content(frame))
    return frames


def _content(frame: zmq.Frame) -> Buffer:
    return frame.buffer if len(frame) >= COPY_BELOW else frame.bytes


def _send_part(socket: Socket, part: Buffer, flags: int) -> None:
    whole: object = part.obj if isinstance(part, memoryview) else None
    if isinstance(whole, zmq.Frame) and len(whole) == len(part):
        # Passed on as received: libzmq shares the memory, without Python's bookkeeping.
        socket.send(whole, flags, copy=False)
    else:
        socket.send(part, flags, copy=len(part) < COPY_BELOW)
