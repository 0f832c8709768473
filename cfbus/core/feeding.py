"""Which feeder serves the images of which lease, for workers that cannot read the source themselves.

Part of the broker's core. A GRANT for such a worker is kept back until its feeder has said that it serves the lease.

Invariants: a lease is granted with a feeder only after that feeder's ALLOWED; whatever ends a lease is told to its
feeder (FORBID); a feeder that is gone serves nothing: its leases end, and their items are free for the next feeder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.columns import build
from cfbus.bus.fields import MAX_HELD
from cfbus.bus.wire import encode_table
from cfbus.core.effects import Connection, Effect, Note, Send
from cfbus.core.leases import LeaseState

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.state import PeerState

ALLOW_SECONDS = 5.0
"""A feeder that has not answered an ALLOW for so long is taken for one that refuses."""
REFUSED_SECONDS = 30.0
"""A feeder that refused a worker's lease, or said nothing, is not asked for that worker again for so long."""
UNREACHABLE_SECONDS = 300.0
"""A worker that could not reach a feeder is not sent there again for so long."""
NO_FEEDER, CANNOT_READ = "no-feeder", "cannot-read"
_EMPTY = encode_table(build("listing", 0, {"key": [], "locator": []}))


@dataclass(eq=False)
class _Kept:
    """A lease whose GRANT waits for a feeder."""

    lease: LeaseState
    listing: bytes
    feeder: Connection
    asked: float
    tried: set[Connection] = field(default_factory=set)


class Feeding:
    """The feeders, and what each serves."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._kept: dict[str, _Kept] = {}
        self._fed: dict[str, Connection] = {}
        self._renewed: dict[str, float] = {}
        self._claims: dict[str, Connection] = {}  # served before a restart of ours, and not taken up yet
        self._unreachable: dict[tuple[str, str], float] = {}
        self._last: dict[str, str] = {}  # worker's instance -> feeder's instance

    # ------------------------------------------------------------------ who needs one, and which

    @property
    def feeders(self) -> list[PeerState]:
        """Those that take leases."""
        return [state for state in self._broker.peers.values() if state.feeds_at and not state.draining]

    def needs(self, worker: PeerState) -> bool:
        """Whether this worker's leases go through a feeder."""
        delivery = self._broker.rules.delivery
        return delivery == "feeder" or (delivery == "auto" and not worker.reads)

    def why_not(self, worker: PeerState, now: float) -> str:
        """What keeps this worker from being granted anything, if it is how it gets its images."""
        if not self.needs(worker):
            return "" if worker.reads else CANNOT_READ
        return "" if self._choose(worker, now, set()) is not None else NO_FEEDER

    def _choose(self, worker: PeerState, now: float, tried: set[Connection]) -> PeerState | None:
        """The feeder that it had before, else the one that serves the fewest leases."""
        able = [
            state
            for state in self.feeders
            if state.peer.connection not in tried
            and self._unreachable.get((worker.instance, state.instance), now) <= now
        ]
        before = self._last.get(worker.instance)
        loads = Counter(self._fed.values())
        return min(able, key=lambda it: (it.instance != before, loads[it.peer.connection], it.name), default=None)

    # ------------------------------------------------------------------ before a GRANT

    def keep(self, lease: LeaseState, worker: PeerState, listing: bytes, now: float) -> list[Effect] | None:
        """Ask a feeder to serve this lease; None when there is none."""
        kept = self._kept.get(lease.row.lease)
        tried = kept.tried if kept is not None else set()
        feeder = self._choose(worker, now, tried)
        if feeder is None:
            self._kept.pop(lease.row.lease, None)
            return None
        connection = feeder.peer.connection
        self._kept[lease.row.lease] = _Kept(lease, listing, connection, now, {*tried, connection})
        self._serves(lease, connection, now)
        self._last[worker.instance] = feeder.instance
        return [Send(connection, self._allow(lease, worker.peer.public), listing)]

    def _serves(self, lease: LeaseState, connection: Connection, now: float) -> None:
        lease.fed = True
        self._fed[lease.row.lease] = connection
        self._renewed[lease.row.lease] = now

    def _allow(self, lease: LeaseState, public: str, *, renewal: bool = False) -> m.Allow:
        row = lease.row
        return m.Allow(
            lease=row.lease,
            worker=public,
            shard=row.shard,
            shard_name=self._broker.shards.names[row.shard],
            start=row.start,
            end=row.end,
            ttl=2 * self._broker.rules.lease_seconds,
            renewal=renewal,
        )

    def allowed(self, feeder: PeerState, message: m.Allowed, now: float) -> list[Effect]:
        """A feeder's answer."""
        connection = feeder.peer.connection
        kept = self._kept.get(message.lease)
        if kept is None or kept.feeder != connection:
            if message.problem or self._fed.get(message.lease) == connection:
                return []
            return [Send(connection, m.Forbid(leases=(message.lease,)))]
        if message.problem:
            note = Note("feeder.refused", (("feeder", feeder.name), ("why", message.problem)))
            return [note, *self._elsewhere(kept, now)]
        del self._kept[message.lease]
        way = m.Way(endpoint=feeder.feeds_at, public=feeder.peer.public)
        return self._broker.granting.grant_now(kept.lease, kept.listing, now, way)

    def _elsewhere(self, kept: _Kept, now: float) -> list[Effect]:
        """This feeder does not do it: the next one, or nobody."""
        lease = kept.lease
        feeder = self._broker.peers.get(kept.feeder)
        if feeder is not None:
            self._avoid(lease.row.instance, feeder, now, REFUSED_SECONDS)
        effects = self._forbid([lease.row.lease])
        connection = self._broker.routes.get(lease.row.instance)
        worker = self._broker.peers.get(connection)
        asked = self.keep(lease, worker, kept.listing, now) if worker is not None and lease.current else None
        if asked is None:
            self._kept.pop(lease.row.lease, None)
            self._broker.granting.undo(lease)
            return effects
        return effects + asked

    # ------------------------------------------------------------------ while it lasts, and after

    def renew(self, lease: LeaseState, worker: PeerState, now: float) -> list[Effect]:
        """The lease goes on."""
        name = lease.row.lease
        connection = self._fed.get(name)
        if connection is None or now - self._renewed[name] < self._broker.rules.lease_seconds / 2:
            return []
        self._renewed[name] = now
        return [Send(connection, self._allow(lease, worker.peer.public, renewal=True), _EMPTY)]

    def settle(self) -> list[Effect]:
        """Leases that ended since the last time, and claims of a feeder that can be decided now."""
        effects = self._take_up_claims() if self._claims else []
        over, self._broker.leases.over = self._broker.leases.over, []
        for lease in over:
            self._kept.pop(lease, None)
        return effects + self._forbid(over)

    def _forbid(self, leases: list[str]) -> list[Effect]:
        by_feeder: dict[Connection, list[str]] = {}
        for lease in leases:
            self._renewed.pop(lease, None)
            connection = self._fed.pop(lease, None)
            if connection is not None and connection in self._broker.peers:
                by_feeder.setdefault(connection, []).append(lease)
        return [
            Send(connection, m.Forbid(leases=tuple(names[at : at + MAX_HELD])))
            for connection, names in by_feeder.items()
            for at in range(0, len(names), MAX_HELD)
        ]

    def unreachable(self, worker: PeerState, lease: LeaseState, now: float) -> list[Effect]:
        """A worker gets nothing from the feeder of this lease."""
        feeder = self._broker.peers.get(self._fed.get(lease.row.lease))
        if feeder is None:
            return []
        self._avoid(worker.instance, feeder, now, UNREACHABLE_SECONDS)
        return [Note("feeder.unreachable", (("feeder", feeder.name), ("worker", worker.name)))]

    def _avoid(self, worker: str, feeder: PeerState, now: float, seconds: float) -> None:
        self._unreachable = {pair: until for pair, until in self._unreachable.items() if until > now}
        self._unreachable[worker, feeder.instance] = now + seconds

    # ------------------------------------------------------------------ feeders come and go

    def before(self, feeder: PeerState) -> list[PeerState]:
        """Who was at this port before, with the same key: the feeder's earlier connections, or its earlier process."""
        return [
            state
            for state in self._broker.peers.values()
            if state.peer.connection != feeder.peer.connection
            and (state.peer.public, state.feeds_at) == (feeder.peer.public, feeder.feeds_at)
        ]

    def hello(self, feeder: PeerState, message: m.Hello, now: float) -> tuple[tuple[str, ...], list[Effect]]:
        """A feeder introduces itself with the leases that it serves. Returns those that are not its own (any more), and
        what it is asked once more. What it served before and does not name is still its earlier connections'."""
        connection = feeder.peer.connection
        own = {connection, *(state.peer.connection for state in self.before(feeder))}
        remembered = self._remembered()
        lost: list[str] = []
        asked: list[Effect] = []
        for name in message.held:
            lease, kept = self._broker.leases.get(name), self._kept.get(name)
            by = self._claims.get(name, connection) if name in remembered else self._fed.get(name, connection)
            if by not in own:
                lost.append(name)
            elif name in remembered:
                self._claims[name] = connection
            elif lease is None or not lease.current:
                lost.append(name)
            else:
                self._serves(lease, connection, now)
                asked += self._ask_once_more(kept, connection) if kept is not None else []
        return tuple(lost), asked

    def _ask_once_more(self, kept: _Kept, connection: Connection) -> list[Effect]:
        """Its answer may have gone with the connection on which it was asked."""
        kept.feeder = connection
        kept.tried.add(connection)
        worker = self._broker.peers.get(self._broker.routes.get(kept.lease.row.instance))
        return [Send(connection, self._allow(kept.lease, worker.peer.public), kept.listing)] if worker else []

    def _take_up_claims(self) -> list[Effect]:
        """Leases from before a restart that a feeder serves, once their worker has taken them up."""
        remembered = self._remembered()
        effects: list[Effect] = []
        for name, connection in list(self._claims.items()):
            lease = self._broker.leases.get(name)
            if lease is not None and lease.current:
                self._serves(lease, connection, lease.granted)
            elif name in remembered and connection in self._broker.peers:
                continue
            elif connection in self._broker.peers:
                effects.append(Send(connection, m.Forbid(leases=(name,))))
            del self._claims[name]
        return effects

    def _remembered(self) -> set[str]:
        """Leases from before a restart that may still be taken up."""
        broker = self._broker
        return set() if broker.ready else {row.lease for row in broker.remembered if row.current}

    def gone(self, connection: Connection, now: float) -> list[Effect]:
        """A feeder has left: its leases end, those that waited for its answer go to another."""
        effects: list[Effect] = []
        for name in [name for name, feeder in self._fed.items() if feeder == connection]:
            kept, lease = self._kept.get(name), self._broker.leases.get(name)
            if kept is not None:
                effects += self._elsewhere(kept, now)
            elif lease is not None and lease.current:
                self._broker.end_lease(lease)
                if lease.connection is not None:
                    state = self._broker.lease_state(lease, now)
                    told = m.Renewed(leases=(state,), window=self._broker.window())
                    effects.append(Send(lease.connection, told))
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Feeders that do not answer."""
        late = [kept for kept in self._kept.values() if now - kept.asked >= ALLOW_SECONDS]
        return [effect for kept in late for effect in self._elsewhere(kept, now)]

    def deadlines(self) -> list[float]:
        """When there is something to do."""
        return [kept.asked + ALLOW_SECONDS for kept in self._kept.values()]

    def check(self) -> None:
        """Assert the invariants, between events."""
        current = {lease.row.lease for lease in self._broker.leases.current()}
        assert set(self._fed) <= current, "a feeder serves what no lease is"
        assert set(self._kept) <= set(self._fed), "a GRANT is kept back and nobody was asked"
        assert all(connection in self._broker.peers for connection in self._fed.values()), "whoever serves is here"
