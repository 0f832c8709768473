"""Who is admitted, and who is put out: the key table, the ZAP thread that answers from it, the cut.

Knows which role may use which port, and TCP as far as putting somebody out needs it. Must not know
messages (what a role may *say* is decided per message, elsewhere), files, or where the table comes from.

Invariants:
- Default deny: only CURVE, only a key that is in the table, only in a state and with a role
  that the asking port admits.
- The table is immutable and swapped as a whole, so a decision sees one table.
- No request, however malformed, ends the thread; if it ends all the same, its socket closes
  with it and, because the ports enforce their ZAP domain, nobody gets in any more.
- Nothing but a status code ever reaches the one who asks to be let in.
- A descriptor inside libzmq is only borrowed: copied, compared, never closed.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket as tcp
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from cfbus.bus.keys import KEY_BYTES, generate
from cfbus.bus.messages import Role
from cfbus.bus.sockets import SEALING_BYTES, Connection, Context, Inbound, Socket, connect_bus, monitor
from cfbus.errors import UnsafeError

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ENDLESS_BYTES: Final = 8 * 1024 * 1024
_ZAP_VERSION: Final = b"1.0"
_JOIN_SECONDS: Final = 5.0
_KEPT_FILES: Final = 256
# What leads a request inside a ROUTER: the asking session's routing id and an empty delimiter.
_ENVELOPE: Final = 2
# Where the kernel's ``tcp_info`` keeps tcpi_bytes_received (Linux 4.1 and later).
_TCP_BYTES_RECEIVED: Final = 128
_OUTCOMES: Final = frozenset(
    {Connection.HANDSHAKE_OK, Connection.REFUSED, Connection.HUNG_UP, Connection.LATER, Connection.WRONG_SERVER}
)


class KeyState(StrEnum):
    """Where a key is in its life; only active and retiring keys are let in."""

    ACTIVE = "active"
    PENDING = "pending"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    EXPIRED = "expired"
    RETIRING = "retiring"


class Reason(StrEnum):
    """Why somebody was or was not let in; what the counters are kept by."""

    ADMITTED = "admitted"
    UNKNOWN = "unknown"
    PENDING = "pending"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    EXPIRED = "expired"
    WRONG_ROLE = "wrong-role"
    WRONG_DOMAIN = "wrong-domain"
    WRONG_MECHANISM = "wrong-mechanism"
    MALFORMED = "malformed"


_STATUS: Final = {Reason.ADMITTED: b"200", Reason.PENDING: b"300", Reason.SUSPENDED: b"300", Reason.MALFORMED: b"500"}
_REFUSED: Final = b"400"
_OPEN_STATES: Final = frozenset({KeyState.ACTIVE, KeyState.RETIRING})
_CLOSED_STATES: Final = {
    KeyState.PENDING: Reason.PENDING,
    KeyState.SUSPENDED: Reason.SUSPENDED,
    KeyState.REVOKED: Reason.REVOKED,
    KeyState.EXPIRED: Reason.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key as the bus sees it; ``public`` is 40 bytes of Z85, ``contributor`` the id to credit."""

    public: bytes
    role: Role
    state: KeyState
    contributor: str
    name: str


class KeyTable(Mapping[bytes, KeyEntry]):
    """All keys by public half (Z85); never changes once made."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[KeyEntry] = ()) -> None:
        self._entries = {entry.public: entry for entry in entries}

    def __getitem__(self, public: bytes) -> KeyEntry:
        return self._entries[public]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def admitted(self, public: bytes) -> KeyEntry | None:
        """The entry if its key may be on the bus now, else ``None``; asked for every message."""
        entry = self._entries.get(public)
        return entry if entry is not None and entry.state in _OPEN_STATES else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer: the reason decides the ZAP status; ``user_id`` is empty unless admitted."""

    reason: Reason
    user_id: bytes = b""

    @property
    def status(self) -> bytes:
        """The ZAP status code: 200 come in, 300 try again later, 400 never, 500 not understood."""
        return _STATUS.get(self.reason, _REFUSED)


def decide(request: list[bytes], table: KeyTable, domains: Mapping[bytes, Collection[Role]]) -> Verdict:
    """The verdict on one ZAP request; total over all lists of bytes.

    ``request`` is version, request id, domain, address, routing id, mechanism, credentials.
    """
    if len(request) < 6 or request[0] != _ZAP_VERSION:
        return Verdict(Reason.MALFORMED)
    domain, mechanism, credentials = request[2], request[5], request[6:]
    roles = domains.get(domain)
    if roles is None:
        return Verdict(Reason.WRONG_DOMAIN)
    if mechanism != b"CURVE":
        return Verdict(Reason.WRONG_MECHANISM)
    if len(credentials) != 1 or len(credentials[0]) != KEY_BYTES:
        return Verdict(Reason.MALFORMED)
    public = z85.encode(credentials[0])
    entry = table.get(public)
    if entry is None:
        return Verdict(Reason.UNKNOWN)
    if entry.state not in _OPEN_STATES:
        return Verdict(_CLOSED_STATES[entry.state])
    if entry.role not in roles:
        return Verdict(Reason.WRONG_ROLE)
    return Verdict(Reason.ADMITTED, public)


class Authenticator:
    """The ZAP handler of one context, in a thread of its own.

    Start it before the first bind. ``swap`` decides about handshakes from then on; who is
    connected already is cut by the caller.
    """

    def __init__(self) -> None:
        self._table = KeyTable()
        self._domains: dict[bytes, frozenset[Role]] = {}
        self._counts = dict.fromkeys(Reason, 0)
        self._thread: threading.Thread | None = None
        self._wake: tcp.socket | None = None

    def start(self, context: Context, table: KeyTable, domains: Mapping[str, Collection[Role]]) -> None:
        """Answer for ``domains`` (name of a port -> roles it admits) until ``stop`` or the context's end.

        Raises ``zmq.ZMQError`` if this context has a handler already.
        """
        self._table = table
        self._domains = {name.encode(): frozenset(roles) for name, roles in domains.items()}
        handler = context.socket(zmq.ROUTER)
        handler.linger = 0
        try:
            handler.bind(ZAP_ENDPOINT)
        except zmq.ZMQError:
            handler.close()
            raise
        self._wake, sleeper = tcp.socketpair()
        self._thread = threading.Thread(target=self._run, args=(handler, sleeper), name="zap", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anybody can still be let in; a broker whose handler died should end."""
        return self._thread is not None and self._thread.is_alive()

    def swap(self, table: KeyTable) -> None:
        """Decide by ``table`` from now on."""
        self._table = table

    def counts(self) -> dict[Reason, int]:
        """How often each verdict was given so far."""
        return dict(self._counts)

    def stop(self) -> None:
        """End the thread; from then on nobody gets in. Harmless when it never ran or ended already."""
        if self._wake is not None:
            self._wake.close()
            self._wake = None
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self, handler: Socket, sleeper: tcp.socket) -> None:
        with sleeper, handler:
            poller = zmq.Poller()
            poller.register(handler, zmq.POLLIN)
            poller.register(sleeper, zmq.POLLIN)
            try:
                # The other end of ``sleeper`` is closed, never written to: readable means stop.
                while sleeper.fileno() not in dict(poller.poll()):
                    self._answer(handler)
            except zmq.ContextTerminated:
                return

    def _answer(self, handler: Socket) -> None:
        frames = handler.recv_multipart()
        request = frames[_ENVELOPE:]
        verdict = decide(request, self._table, self._domains)
        self._counts[verdict.reason] += 1
        if len(request) < 2 or frames[1]:
            return
        handler.send_multipart([frames[0], b"", _ZAP_VERSION, request[1], verdict.status, b"", verdict.user_id, b""])


def peer_limit() -> int:
    """How many peers this process can hold: raises its limit of open files to the allowed one.

    At that limit ``accept`` itself fails and libzmq spins on it, so the broker must refuse before.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted - _KEPT_FILES)


def peer_address(fd: int) -> str | None:
    """Address and port at the other end of a connection inside libzmq, to be compared in ``cut``."""
    with suppress(OSError), _borrowed(fd) as connection:
        return str(connection.getpeername())
    return None


def cut(fd: int, address: str) -> bool:
    """Break the connection ``fd`` if it still leads to ``address``; whether it did.

    libzmq may have closed the descriptor and the system given its number to something else, hence
    the comparison; the descriptor itself stays libzmq's to close.
    """
    with suppress(OSError), _borrowed(fd) as connection:
        if str(connection.getpeername()) == address:
            connection.shutdown(tcp.SHUT_RDWR)
            return True
    return False


class EndlessWatch:
    """Finds peers whose message never ends: each of its frames is legal, and libzmq keeps them all.

    Compares what TCP took in and libzmq fetched, per connection, with what was delivered; the
    difference of an honest peer stays below 16 messages. Hand it every batch of ``drain``.
    """

    def __init__(self, router: Socket) -> None:
        self._router = router
        self._events = monitor(router, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self._peers: dict[int, str] = {}
        self._delivered: Counter[int] = Counter()

    def delivered(self, batch: Iterable[Inbound]) -> None:
        """Credit what ``drain`` brought up."""
        self._follow()
        for message in batch:
            self._delivered[message.fd] += sum(wire_bytes(len(frame)) for frame in message.frames)

    def cut_endless(self) -> int:
        """Cut every peer that is more than ``ENDLESS_BYTES`` ahead; how many. Once a second will do."""
        self._follow()
        return sum(
            cut(fd, address)
            for fd, address in list(self._peers.items())
            if _fetched(fd) - self._delivered[fd] > ENDLESS_BYTES
        )

    def close(self) -> None:
        """Stop watching; in any order with closing the socket."""
        if not self._router.closed:
            self._router.disable_monitor()
        self._events.close()

    def _follow(self) -> None:
        while self._events.poll(0):
            event = recv_monitor_message(self._events)
            fd = int(event["value"])
            self._delivered.pop(fd, None)
            self._peers.pop(fd, None)
            if event["event"] == zmq.EVENT_ACCEPTED and (address := peer_address(fd)) is not None:
                self._peers[fd] = address


def self_test(endpoint: str, server_public: bytes, timeout: float = 10.0) -> None:
    """Return once a key that nobody knows was refused at ``endpoint``; waits ``timeout`` seconds at most.

    Raises ``UnsafeError`` if the stranger gets in, or if the door cannot be seen to work.
    """
    outcome = _as_stranger(endpoint, server_public, timeout)
    if outcome is Connection.HANDSHAKE_OK:
        raise UnsafeError(
            f"The broker at {endpoint} let in a key that it does not know.",
            "It will not run like this; please report it with the versions of pyzmq and libzmq.",
        )
    if outcome is not Connection.REFUSED:
        raise UnsafeError(f"The broker could not see its own door at {endpoint} refuse a stranger ({outcome}).")


def diagnose(endpoint: str, server_public: bytes, timeout: float = 10.0) -> Connection:
    """Why a client was hung up on: ``LATER`` or ``WRONG_SERVER``; waits ``timeout`` seconds at most.

    Only the holder of the server's secret can tell a stranger that it is refused.
    """
    outcome = _as_stranger(endpoint, server_public, timeout)
    return Connection.LATER if outcome is Connection.REFUSED else Connection.WRONG_SERVER


def _as_stranger(endpoint: str, server_public: bytes, timeout: float) -> Connection:
    """What happens to a client with a key made up on the spot."""
    context: Context = zmq.Context()
    socket, watch = connect_bus(context, generate(), server_public, endpoint)
    deadline = time.monotonic() + timeout
    outcome = Connection.RETRYING
    try:
        while outcome not in _OUTCOMES and (left := deadline - time.monotonic()) > 0:
            watch.events.poll(int(left * 1000) + 1)
            outcome = next((each for each in watch.read(time.monotonic()) if each in _OUTCOMES), outcome)
    finally:
        watch.close()
        socket.close(0)
        context.term()
    return outcome


def wire_bytes(size: int) -> int:
    """What a frame of ``size`` bytes takes on a CURVE connection: nonce, MAC, names and ZMTP's header."""
    sealed = size + SEALING_BYTES
    return sealed + (2 if sealed <= 255 else 9)


def _borrowed(fd: int) -> tcp.socket:
    """A socket object on a copy of a descriptor that is not ours."""
    copy = os.dup(fd)
    try:
        return tcp.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _fetched(fd: int) -> int:
    """Bytes that libzmq has taken from this connection; what still waits in the kernel is no burden of ours."""
    with suppress(OSError, struct.error), _borrowed(fd) as connection:
        info = connection.getsockopt(tcp.IPPROTO_TCP, tcp.TCP_INFO, 256)
        (received,) = struct.unpack_from("=Q", info, _TCP_BYTES_RECEIVED)
        (waiting,) = struct.unpack("=i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
        return int(received) - int(waiting)
    return 0
