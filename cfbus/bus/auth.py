"""Who is admitted: the key table, and the ZAP thread that answers from it.

Knows which role may use which port. Must not know messages (what a role may *say* is decided per message,
elsewhere), files, or where the table comes from.

Invariants:
- Default deny: only CURVE, only a key that is in the table, only in a state and with a role
  that the asking port admits.
- The table is immutable and swapped as a whole, so a decision sees one table.
- No request, however malformed, ends the thread; if it ends all the same, its socket closes
  with it and, because the ports enforce their ZAP domain, nobody gets in any more.
- Nothing but a status code ever reaches the one who asks to be let in, and libzmq asks here only for a key whose owner
  has shown that he has its secret half: what a code says of a key, nobody else is told.
"""

from __future__ import annotations

import socket as tcp
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import zmq
from zmq.utils import z85

from cfbus.bus.keys import KEY_BYTES
from cfbus.bus.messages import Role
from cfbus.bus.sockets import Context, Socket
from cfbus.core.limits import Budget

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_ZAP_VERSION: Final = b"1.0"
_JOIN_SECONDS: Final = 5.0
# What leads a request inside a ROUTER: the asking session's routing id and an empty delimiter.
_ENVELOPE: Final = 2


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
    TOO_OFTEN = "too-often"


# ZAP has four codes and libzmq takes no others. What 500 means to ZAP, a handler in trouble, is never said here: one
# that cannot answer ends, and a malformed request comes of no client. So it is free for a key that is closed for good.
_STATUS: Final = {
    Reason.ADMITTED: b"200",
    Reason.PENDING: b"300",
    Reason.SUSPENDED: b"300",
    Reason.TOO_OFTEN: b"300",
    Reason.REVOKED: b"500",
    Reason.EXPIRED: b"500",
}
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
    """One key as the bus sees it; ``public`` is 40 bytes of Z85, ``contributor`` the id to credit, ``expires`` in UTC
    seconds, ``reason`` a maintainer's word on the state."""

    public: bytes
    role: Role
    state: KeyState
    contributor: str
    name: str
    expires: float | None = None
    reason: str = ""


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
        """The ZAP status code: 200 come in, 300 try again later, 400 not known at this port, 500 closed for good."""
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
    connected already is cut by the caller (``connections.PeerWatch``).
    """

    def __init__(self, handshakes_per_minute: int = 0) -> None:
        """``handshakes_per_minute`` is the most for one key; 0 leaves them unlimited."""
        self._per_minute = handshakes_per_minute
        self._knocks: dict[bytes, Budget] = {}
        self._too_often: Counter[bytes] = Counter()
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

    def limit(self, handshakes_per_minute: int) -> None:
        """Another limit from now on; every key begins with a full budget."""
        if handshakes_per_minute != self._per_minute:
            self._per_minute = handshakes_per_minute
            self._knocks = {}  # not cleared: the thread may be at it

    def counts(self) -> dict[Reason, int]:
        """How often each verdict was given so far."""
        return dict(self._counts)

    def too_often(self) -> dict[bytes, int]:
        """Which keys (Z85) were put off for shaking hands too often, and how often, since this was last asked."""
        seen, self._too_often = self._too_often, Counter()
        return dict(seen)

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
        verdict = self._within_limit(decide(request, self._table, self._domains))
        self._counts[verdict.reason] += 1
        if len(request) < 2 or frames[1]:
            return
        handler.send_multipart([frames[0], b"", _ZAP_VERSION, request[1], verdict.status, b"", verdict.user_id, b""])

    def _within_limit(self, verdict: Verdict) -> Verdict:
        """Only keys that are let in have a budget, so there are never more budgets than keys."""
        if verdict.reason is not Reason.ADMITTED or not self._per_minute:
            return verdict
        now, key, knocks = time.monotonic(), verdict.user_id, self._knocks
        budget = knocks.get(key)
        if budget is None:
            budget = knocks[key] = Budget(self._per_minute / 60.0, 60.0, now)
        if budget.take(1, now):
            return verdict
        self._too_often[key] += 1
        return Verdict(Reason.TOO_OFTEN)
