"""The feeder's core: who may read which items until when, whose turn it is, and how much may be under way.

Sans-IO like the other cores. The broker says which leases are served (ALLOW, FORBID); workers ask for items of their
leases (FETCH); the shell reads them (`Read`) and hands back what it got (`loaded`).

Invariants: not a byte of an item leaves but to the key that its lease was allowed for, within the lease, while it is
allowed; never more payload on a connection than its credit; each item that is asked for is answered once, unless
its lease ends first; what is read and not sent stays within ``memory`` but for one item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from cfbus.bus import messages as m
from cfbus.bus.fields import MAX_HELD, PIECE_BYTES
from cfbus.bus.wire import WireError, decode_table
from cfbus.core.effects import Connection, Effect, Note, Send, Stop
from cfbus.core.retransmit import BROKER

HELLO_SECONDS = 3.0
HEARTBEAT_SECONDS = 2.0
LINGER_SECONDS = 30.0
"""A key without a lease stays admitted for so long: its worker is between two leases."""
SILENT_SECONDS = 120.0
"""A connection that asks for nothing for so long, credit neither, is taken for gone."""
MAX_ALLOWED = MAX_HELD
MAX_WANTED = 4096
"""So many items may wait on one connection; whoever asks for more at once is told no."""
READ_AHEAD = 8
"""So many items of one connection are read, or wait to be sent, at the same time."""


@dataclass(frozen=True, slots=True)
class Read:
    """The shell should read this item and report with ``loaded``."""

    to: Connection
    lease: str
    shard: str
    index: int
    key: str
    locator: bytes


@dataclass(frozen=True, slots=True)
class Admit:
    """These keys (Z85) may connect from now on, and no others."""

    keys: frozenset[str]


ServingEffect = Effect | Read | Admit


@dataclass(frozen=True, slots=True)
class ServingRules:
    """How this feeder is run. ``readers`` is how many items are read at once, ``memory`` in bytes."""

    instance: str
    name: str
    feeds_at: str
    readers: int = 4
    memory: int = 256 << 20


@dataclass(eq=False)
class _Allowance:
    """One lease that is served."""

    worker: str
    shard_name: str
    start: int
    end: int
    keys: list[str]
    locators: list[bytes]
    until: float


@dataclass(eq=False)
class _Ready:
    """An item that was read, and how much of it was sent."""

    lease: str
    index: int
    columns: int
    content: bytes
    failure: m.FailedItem | None = None
    sent: int = 0


@dataclass(eq=False)
class _Line:
    """One worker's connection."""

    worker: str
    heard: float
    credit: int = 0
    sent: int = 0
    wanted: deque[tuple[str, int]] = field(default_factory=deque)
    reading: set[tuple[str, int]] = field(default_factory=set)
    ready: deque[_Ready] = field(default_factory=deque)


class Serving:
    """All that is served by one feeder."""

    def __init__(self, rules: ServingRules, now: float) -> None:
        self.rules = rules
        self.draining = False
        self.served = 0
        self.sent_bytes = 0
        self.refused = 0
        self._allowed: dict[str, _Allowance] = {}
        self._lines: dict[Connection, _Line] = {}
        self._leaving: dict[str, float] = {}  # keys without a lease, and until when they are admitted
        self._admitted: frozenset[str] = frozenset()
        self._held_bytes = 0
        self._reading = 0
        self._welcomed = False
        self._hello_at = now + HELLO_SECONDS
        self._beat_at = now

    # ------------------------------------------------------------------ the broker

    @property
    def leases(self) -> int:
        """How many leases are served."""
        return len(self._allowed)

    def connected(self, now: float) -> list[ServingEffect]:
        """There is a way to the broker (again)."""
        self._welcomed = False
        self._hello_at = now + HELLO_SECONDS
        hello = m.Hello(
            role=m.Role.FEEDER,
            instance=self.rules.instance,
            software="cfbus",
            name=self.rules.name,
            held=tuple(self._allowed)[:MAX_HELD],
            feeds_at=self.rules.feeds_at,
        )
        return [Send(BROKER, hello)]

    def handle(self, message: m.Message, payload: bytes, now: float) -> list[ServingEffect]:
        """The broker said something."""
        match message:
            case m.Welcome():
                self._welcomed = True
                self._beat_at = now + HEARTBEAT_SECONDS
                note = Note("bus.welcomed", (("dataset", message.dataset),))
                return [note, *self._forbid(message.lost, now)]
            case m.Allow():
                return self._allow(message, payload, now)
            case m.Forbid():
                return self._forbid(message.leases, now)
            case m.Error():
                return self._error(message, now)
            case _:
                return []

    def _error(self, message: m.Error, now: float) -> list[ServingEffect]:
        if message.fatal:
            return [Stop(f"The broker refuses this feeder: {message.sentence}", exit_code=77)]
        if message.code == "hello-first":
            return self.connected(now) if self._welcomed or now >= self._hello_at else []
        return [Note("bus.error", (("code", message.code), ("sentence", message.sentence)))]

    def _allow(self, message: m.Allow, payload: bytes, now: float) -> list[ServingEffect]:
        known = self._allowed.get(message.lease)
        if known is not None and known.worker == message.worker:
            known.until = now + message.ttl
            return [] if message.renewal else [Send(BROKER, m.Allowed(lease=message.lease))]
        problem, allowance = self._allowance(message, payload, now)
        if allowance is None:
            return [Send(BROKER, m.Allowed(lease=message.lease, problem=problem))]
        self._allowed[message.lease] = allowance
        self._leaving.pop(message.worker, None)
        return [*self._admit(), Send(BROKER, m.Allowed(lease=message.lease))]

    def _allowance(self, message: m.Allow, payload: bytes, now: float) -> tuple[str, _Allowance | None]:
        if message.renewal:
            return "This feeder does not serve that lease.", None
        if self.draining:
            return "This feeder is about to stop.", None
        if len(self._allowed) >= MAX_ALLOWED:
            return f"This feeder serves {MAX_ALLOWED} leases, as many as it can.", None
        try:
            listing = decode_table("listing", payload)
        except WireError as error:
            return f"The listing cannot be read: {error}", None
        if listing.rows < message.end - message.start:
            return "The listing is shorter than the lease.", None
        keys, locators = listing.text("key").texts(), listing.text("locator").raws()
        until = now + message.ttl
        return "", _Allowance(message.worker, message.shard_name, message.start, message.end, keys, locators, until)

    def _forbid(self, leases: Iterable[str], now: float) -> list[ServingEffect]:
        for lease in leases:
            allowance = self._allowed.pop(lease, None)
            if allowance is not None:
                self._drop(lease)
                if not any(other.worker == allowance.worker for other in self._allowed.values()):
                    self._leaving[allowance.worker] = now + LINGER_SECONDS
        return [*self._admit(), *self._pump()]

    def _drop(self, lease: str) -> None:
        """Nothing of this lease goes out any more, whatever was asked for or read."""
        for line in self._lines.values():
            line.wanted = deque(each for each in line.wanted if each[0] != lease)
            self._held_bytes -= sum(len(ready.content) for ready in line.ready if ready.lease == lease)
            line.ready = deque(ready for ready in line.ready if ready.lease != lease)

    def _admit(self) -> list[ServingEffect]:
        keys = frozenset(each.worker for each in self._allowed.values()) | self._leaving.keys()
        if keys == self._admitted:
            return []
        self._admitted = frozenset(keys)
        return [Admit(self._admitted)]

    # ------------------------------------------------------------------ workers

    def fetch(self, connection: Connection, worker: str, message: m.Fetch, now: float) -> list[ServingEffect]:
        """A worker wants items; ``worker`` is the key (Z85) that libzmq vouches for."""
        line = self._lines.setdefault(connection, _Line(worker, now))
        line.heard = now
        line.credit = max(line.credit, message.credit)
        allowance = self._allowed.get(message.lease)
        if allowance is not None and allowance.worker != worker:
            allowance = None
        refusals: list[ServingEffect] = []
        for index in message.items:
            reason = self._refusal(line, allowance, message.lease, index)
            if reason:
                self.refused += 1
                refusals.append(Send(connection, _refused(message.lease, index, reason)))
            else:
                line.wanted.append((message.lease, index))
        return [*refusals, *self._pump()]

    def _refusal(self, line: _Line, allowance: _Allowance | None, lease: str, index: int) -> str:
        if allowance is None:
            return "no-lease"
        if not allowance.start <= index < allowance.end:
            return "outside"
        return "too-many" if len(line.wanted) >= MAX_WANTED else ""

    def loaded(
        self, to: Connection, lease: str, index: int, columns: bytes, data: bytes, failure: m.FailedItem | None
    ) -> list[ServingEffect]:
        """The shell has read an item, or could not."""
        self._reading -= 1
        line = self._lines.get(to)
        if line is not None and (lease, index) in line.reading:
            line.reading.remove((lease, index))
            if lease in self._allowed:
                ready = _Ready(lease, index, len(columns), columns + data, failure)
                self._held_bytes += len(ready.content)
                line.ready.append(ready)
        return self._pump()

    def gone(self, connection: Connection) -> list[ServingEffect]:
        """A worker's connection is no more."""
        line = self._lines.pop(connection, None)
        if line is not None:
            self._held_bytes -= sum(len(ready.content) for ready in line.ready)
        return self._pump()

    # ------------------------------------------------------------------ turns

    def _pump(self) -> list[ServingEffect]:
        """Send what may be sent and read what may be read, a piece and an item of each connection in turn."""
        effects: list[ServingEffect] = []
        going = True
        while going:
            sent = [effect for to, line in self._lines.items() for effect in self._send(to, line)]
            read = [effect for to, line in list(self._lines.items()) for effect in self._read(to, line)]
            effects += [*sent, *read]
            going = bool(sent or read)
        # Whoever was first is last the next time.
        for connection in list(self._lines)[:1]:
            self._lines[connection] = self._lines.pop(connection)
        return effects

    def _send(self, to: Connection, line: _Line) -> list[ServingEffect]:
        """The next piece of what is ready."""
        if not line.ready:
            return []
        ready = line.ready[0]
        size = min(PIECE_BYTES, len(ready.content) - ready.sent, line.credit - line.sent)
        if size <= 0 and ready.content:
            return []
        piece = ready.content[ready.sent : ready.sent + size]
        message = m.Data(
            lease=ready.lease,
            index=ready.index,
            size=len(ready.content),
            columns_size=ready.columns,
            offset=ready.sent,
            failure=ready.failure,
        )
        ready.sent += size
        line.sent += size
        self.sent_bytes += size
        if ready.sent == len(ready.content):
            line.ready.popleft()
            self._held_bytes -= len(ready.content)
            self.served += 1
        return [Send(to, message, piece)]

    def _read(self, to: Connection, line: _Line) -> list[ServingEffect]:
        """The next item that is wanted, if there is room for it."""
        full = self._reading >= self.rules.readers or self._held_bytes >= self.rules.memory
        if full or not line.wanted or len(line.reading) + len(line.ready) >= READ_AHEAD:
            return []
        lease, index = line.wanted.popleft()
        allowance = self._allowed[lease]
        if (lease, index) in line.reading:  # asked for twice: it comes once
            return []
        line.reading.add((lease, index))
        self._reading += 1
        at = index - allowance.start
        return [Read(to, lease, allowance.shard_name, index, allowance.keys[at], allowance.locators[at])]

    def tick(self, now: float) -> list[ServingEffect]:
        """Time has passed."""
        over = [lease for lease, each in self._allowed.items() if each.until <= now]
        effects = self._forbid(over, now) if over else []
        self._leaving = {key: until for key, until in self._leaving.items() if until > now}
        for connection in [each for each, line in self._lines.items() if now - line.heard > SILENT_SECONDS]:
            effects += self.gone(connection)
        effects += self._admit()
        if not self._welcomed:
            return effects + (self.connected(now) if now >= self._hello_at else [])
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_SECONDS
            effects.append(Send(BROKER, m.Heartbeat(in_flight=self._reading, held=len(self._allowed))))
        return effects

    def next_deadline(self) -> float:
        """When ``tick`` has something to do."""
        times = [each.until for each in self._allowed.values()] + list(self._leaving.values())
        times += [line.heard + SILENT_SECONDS + 1 for line in self._lines.values()]
        return min([self._beat_at if self._welcomed else self._hello_at, *times])

    def drain(self) -> list[ServingEffect]:
        """Take no new leases; what is served is served on."""
        news = not self.draining
        self.draining = True
        return [Send(BROKER, m.Drain())] if news else []

    def check(self) -> None:
        """Assert the invariants."""
        held = sum(len(ready.content) for line in self._lines.values() for ready in line.ready)
        assert held == self._held_bytes, "bytes are miscounted"
        for line in self._lines.values():
            assert line.sent <= line.credit, "more was sent than there is credit for"
            for lease in {each[0] for each in line.wanted} | {ready.lease for ready in line.ready}:
                assert self._allowed[lease].worker == line.worker, "somebody else's lease"


def _refused(lease: str, index: int, reason: str) -> m.Data:
    sentences = {
        "no-lease": "The feeder does not serve this lease to this key.",
        "outside": "The item is not in the lease.",
        "too-many": "Too many items are asked for at once.",
    }
    fault = "network" if reason == "no-lease" else "worker"
    failure = m.FailedItem(index=index, reason=reason, detail=sentences[reason], fault=fault)  # type: ignore[arg-type]
    return m.Data(lease=lease, index=index, failure=failure)
