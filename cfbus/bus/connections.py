"""Connections as TCP sees them: how many a broker can hold, whose they are, how one is cut, what a door does.

Knows libzmq's descriptors and monitors, and TCP as far as putting somebody out needs it. Must not know messages, nor
who is admitted: it is told.

Invariants:
- A descriptor inside libzmq is only borrowed: copied, compared, never closed.
- A connection is cut only if it still leads to the address that was meant.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import resource
import socket as tcp
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from cfbus.bus.keys import generate
from cfbus.bus.sockets import SEALING_BYTES, Connection, Context, Inbound, Socket, connect_bus, connect_stats, monitor
from cfbus.errors import UnsafeError

ENDLESS_BYTES: Final = 8 * 1024 * 1024
_KEPT_FILES: Final = 256
# Where the kernel's ``tcp_info`` keeps tcpi_bytes_received (Linux 4.1 and later).
_TCP_BYTES_RECEIVED: Final = 128
_HOST_BITS: Final = 64
# Not ACCEPT_FAILED: without a free descriptor libzmq tries again and again, and tells each time, faster than
# anybody reads.
# Not HANDSHAKE_FAILED_PROTOCOL: libzmq 4.3.5 tells it between finding a broken MESSAGE and hanging up, forgets in
# between that it wanted to hang up, and keeps a deaf connection whose descriptor nothing frees any more.
_WATCHED: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_OUTCOMES: Final = frozenset(
    {
        Connection.HANDSHAKE_OK,
        Connection.REFUSED,
        Connection.CLOSED,
        Connection.HUNG_UP,
        Connection.LATER,
        Connection.WRONG_SERVER,
    }
)


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


@dataclass(slots=True)
class _Peer:
    address: str
    delivered: int = 0
    # Of its newest message; empty while none has come.
    routing_id: bytes = b""
    user_id: bytes = b""
    host: str = ""
    heard: float = 0.0
    extra: bool = False
    farewell: bool = False
    closing: bool = False


class PeerWatch:
    """Follows the connections of one bound socket, and cuts those that must not go on.

    These are peers whose key is no longer admitted, and peers whose message never ends: each of its frames is
    legal, and libzmq keeps them all. For the latter, what TCP took in and libzmq fetched is compared with what was
    delivered; the difference of an honest peer stays below 16 messages. Hand it every batch of ``drain``.
    """

    def __init__(self, server: Socket) -> None:
        self._server = server
        self._events = monitor(server, _WATCHED)
        self._peers: dict[int, _Peer] = {}
        self._of_key: Counter[bytes] = Counter()
        self.noticed: Counter[str] = Counter()
        """What went wrong at this door, by its name; names are libzmq's and a handful of ours."""

    def delivered(self, batch: Iterable[Inbound], most: int = 0) -> None:
        """Credit what ``drain`` brought up, and note whose connections these are.

        A connection of a key that has ``most`` already is one too many: see ``is_extra``.
        """
        self.follow()
        now = time.monotonic()
        for message in batch:
            peer = self._peers.get(message.fd)
            if peer is not None:
                peer.delivered += sum(wire_bytes(len(frame)) for frame in message.frames)
                if not peer.user_id:
                    self._of_key[message.user_id] += 1
                    peer.extra = 0 < most < self._of_key[message.user_id]
                peer.routing_id, peer.user_id, peer.heard = message.routing_id, message.user_id, now

    def is_extra(self, fd: int) -> bool:
        """Whether it is one more than its key may have."""
        peer = self._peers.get(fd)
        return peer is not None and peer.extra

    def said_farewell(self, fd: int) -> None:
        """Its end is no surprise."""
        if peer := self._peers.get(fd):
            peer.farewell = True

    def hosts(self) -> dict[bytes, set[str]]:
        """From which hosts each key (Z85) is connected now; of IPv6 the network, as hosts change the rest."""
        self.follow()
        found: dict[bytes, set[str]] = {}
        for peer in self._peers.values():
            if peer.user_id:
                found.setdefault(peer.user_id, set()).add(peer.host)
        return found

    def cut_extra(self) -> int:
        """Cut the connections that are too many for their keys; how many."""
        self.follow()
        return sum(cut(fd, peer.address) for fd, peer in list(self._peers.items()) if peer.extra)

    def crowded(self, room: int) -> bool:
        """Whether there are more connections than this; then ``cut_silent`` soon again."""
        return len(self._peers) > room

    def cut_silent(self, seconds: float, room: int) -> int:
        """Cut whom nothing was heard of for so long, and, the oldest first, of those who never said anything as many
        as are above ``room``: who speaks must not run out of descriptors for who does not. How many."""
        self.follow()
        now = time.monotonic()
        late = {fd: peer for fd, peer in self._peers.items() if now - peer.heard > seconds}
        unheard = [fd for fd, peer in self._peers.items() if not peer.user_id]
        late.update((fd, self._peers[fd]) for fd in unheard[: max(len(self._peers) - room, 0)])
        return sum(cut(fd, peer.address) for fd, peer in late.items())

    def cut_endless(self) -> int:
        """Cut every peer that is more than ``ENDLESS_BYTES`` ahead; how many. Once a second will do."""
        self.follow()
        return sum(
            cut(fd, peer.address)
            for fd, peer in list(self._peers.items())
            if _fetched(fd) - peer.delivered > ENDLESS_BYTES
        )

    def closing(self, admitted: Callable[[bytes], bool]) -> dict[bytes, bytes]:
        """Who is to be cut by the next ``cut_keys`` and was not told so yet: routing ids and their keys (Z85)."""
        self.follow()
        fresh = {}
        for peer in self._peers.values():
            closed = bool(peer.user_id) and not admitted(peer.user_id)
            if closed and not peer.closing:
                fresh[peer.routing_id] = peer.user_id
            peer.closing = closed
        return fresh

    def cut_keys(self, admitted: Callable[[bytes], bool]) -> list[bytes]:
        """Cut every peer that has said something and whose key (Z85) is not ``admitted`` now; their routing ids."""
        self.follow()
        out = [(fd, peer) for fd, peer in self._peers.items() if peer.user_id and not admitted(peer.user_id)]
        for fd, peer in out:
            cut(fd, peer.address)
        return [peer.routing_id for _, peer in out]

    def cut_all(self) -> int:
        """Cut everybody, for where it cannot be told who is who; how many. Those who may come back do."""
        self.follow()
        return sum(cut(fd, peer.address) for fd, peer in self._peers.items())

    def close(self) -> None:
        """Stop watching; in any order with closing the socket."""
        if not self._server.closed:
            self._server.disable_monitor()
        self._events.close()

    def follow(self) -> None:
        """Take note of what happened since it was last done; all that is asked here does so first."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events)
            kind, value = zmq.Event(event["event"]), int(event["value"])
            if kind is zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                # libzmq does not say on which connection.
                self.noticed["handshake.unfinished"] += 1
                continue
            self._forget(value, broken=kind is zmq.Event.DISCONNECTED)
            if kind is zmq.Event.ACCEPTED:
                # It may be gone already; then its end is the next that is told of this descriptor.
                self._peers[value] = _Peer(peer_address(value) or "", host=_host_of(value), heard=time.monotonic())

    def _forget(self, fd: int, *, broken: bool) -> None:
        peer = self._peers.pop(fd, None)
        if peer is None:
            return
        if peer.user_id:
            self._of_key[peer.user_id] -= 1
            if not self._of_key[peer.user_id]:
                del self._of_key[peer.user_id]
        if broken and not peer.farewell:
            self.noticed["connection.broke-off" if peer.user_id else "connection.never-spoke"] += 1


def _host_of(fd: int) -> str:
    """Where a connection comes from, without its port."""
    with suppress(OSError, ValueError), _borrowed(fd) as connection:
        address = ipaddress.ip_address(str(connection.getpeername()[0]).partition("%")[0])
        if isinstance(address, ipaddress.IPv4Address):
            return str(address)
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _HOST_BITS), strict=False))
    return ""


class Stranger:
    """A client with a key made up on the spot: what a door does to it tells who is behind the door.

    ``events`` can be polled; ``look`` whenever it can be read. Close it before its context ends.
    """

    def __init__(self, context: Context, endpoint: str, server_public: bytes, *, stats: bool = False) -> None:
        # libzmq hangs up on a socket of the wrong kind before it says who is refused.
        if stats:
            self._socket, self._watch = connect_stats(context, generate(), server_public, endpoint, [])
        else:
            self._socket, self._watch = connect_bus(context, generate(), server_public, endpoint)
        self.events = self._watch.events

    def look(self, now: float) -> Connection | None:
        """What became of it (never that it is still trying), or ``None`` as long as nothing has; ``now`` in seconds
        of a monotonic clock."""
        return next((each for each in self._watch.read(now) if each in _OUTCOMES), None)

    def close(self) -> None:
        """Hang up."""
        self._watch.close()
        self._socket.close(0)


def diagnosis(outcome: Connection) -> Connection:
    """Why another client is hung up on where this became of a stranger: ``LATER`` or ``WRONG_SERVER``.

    A server with another secret cannot read a stranger's first word, and so refuses nobody. (One that lies can: a
    refusal is not signed.)
    """
    known = outcome in (Connection.REFUSED, Connection.CLOSED, Connection.LATER, Connection.HANDSHAKE_OK)
    return Connection.LATER if known else Connection.WRONG_SERVER


def self_test(endpoint: str, server_public: bytes, timeout: float = 10.0) -> None:
    """Return once a key that nobody knows was refused at ``endpoint``; waits ``timeout`` seconds at most.

    Raises ``UnsafeError`` if the stranger gets in, or if the door cannot be seen to work.
    """
    outcome = _knock(endpoint, server_public, timeout)
    if outcome is Connection.HANDSHAKE_OK:
        raise UnsafeError(
            f"The broker at {endpoint} let in a key that it does not know.",
            "It will not run like this; please report it with the versions of pyzmq and libzmq.",
        )
    if outcome is not Connection.REFUSED:
        seen = outcome or Connection.RETRYING
        raise UnsafeError(f"The broker could not see its own door at {endpoint} refuse a stranger ({seen}).")


def _knock(endpoint: str, server_public: bytes, timeout: float) -> Connection | None:
    """What becomes of a stranger within ``timeout`` seconds."""
    context: Context = zmq.Context()
    stranger = Stranger(context, endpoint, server_public)
    deadline = time.monotonic() + timeout
    outcome = None
    try:
        while outcome is None and (left := deadline - time.monotonic()) > 0:
            stranger.events.poll(int(left * 1000) + 1)
            outcome = stranger.look(time.monotonic())
    finally:
        stranger.close()
        context.term()
    return outcome


def wire_bytes(size: int) -> int:
    """What a frame of ``size`` bytes takes on a CURVE connection: nonce, MAC, names and ZMTP's header."""
    sealed = size + SEALING_BYTES
    return sealed + (2 if sealed <= 255 else 9)


@contextmanager
def _borrowed(fd: int) -> Iterator[tcp.socket]:
    """A socket object on a copy of a descriptor that is not ours; where no copy can be had, on the descriptor itself,
    for just then somebody has to be put out."""
    try:
        number, own = os.dup(fd), True
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        number, own = fd, False
    try:
        connection = tcp.socket(fileno=number)
    except OSError:
        if own:
            os.close(number)
        raise
    try:
        yield connection
    finally:
        if own:
            connection.close()
        else:
            connection.detach()


def _fetched(fd: int) -> int:
    """Bytes that libzmq has taken from this connection; what still waits in the kernel is no burden of ours."""
    with suppress(OSError, struct.error), _borrowed(fd) as connection:
        info = connection.getsockopt(tcp.IPPROTO_TCP, tcp.TCP_INFO, 256)
        (received,) = struct.unpack_from("=Q", info, _TCP_BYTES_RECEIVED)
        (waiting,) = struct.unpack("=i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
        return int(received) - int(waiting)
    return 0
