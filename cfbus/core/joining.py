"""Peers come and go: HELLO, WELCOME, leases that a worker still holds, BYE, silence.

Part of the broker's core. A peer is known by its connection; a worker's results and leases by its instance, which
belongs to one contributor for as long as anything of it is remembered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cfbus.bus import messages as m
from cfbus.bus.messages import Role
from cfbus.core.effects import Connection, Effect, Note, Peer, Send
from cfbus.core.state import PeerState

if TYPE_CHECKING:
    from cfbus.core.broker import Broker
    from cfbus.core.leases import LeaseState

SOFTWARE = "cfbus"
SILENT_HEARTBEATS = 3.5
"""A peer that was silent for this many heartbeats has to say HELLO again."""


class Joining:
    """Who is on the bus."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def silence(self) -> float:
        """Seconds after which a peer that says nothing is gone."""
        return self._broker.rules.heartbeat_seconds * SILENT_HEARTBEATS

    def hello(self, peer: Peer, message: m.Hello, now: float) -> list[Effect]:
        """A peer introduces itself."""
        broker = self._broker
        if message.role != peer.role:
            return broker.refuse(peer, "role", f"This key is a {peer.role}'s, not a {message.role}'s.", fatal=True)
        state = PeerState(
            peer, message.instance, message.name, message.concurrency, now,
            reads=message.reads, feeds_at=message.feeds_at or "",
        )  # fmt: skip
        if peer.role is Role.WRITER:
            return broker.catchup.hello(state, message, now)
        if peer.role is Role.WORKER and self._is_anothers(peer, message.instance):
            return broker.refuse(peer, "instance", "This instance id is another's.", fatal=True)
        if bool(state.feeds_at) != (peer.role is Role.FEEDER):
            return broker.refuse(peer, "feeds-at", "A feeder says where it feeds, and nobody else does.", fatal=True)
        broker.peers[peer.connection] = state
        effects: list[Effect] = []
        lost: tuple[str, ...] = ()
        if peer.role is Role.FEEDER:
            lost, asked = broker.feeding.hello(state, message, now)
            effects.append(Note("feeder.joined", (("feeder", message.name), ("feeds_at", state.feeds_at))))
            effects += asked
            for before in broker.feeding.before(state):
                effects += self.lose(before.peer.connection, before, now)
        if peer.role is Role.WORKER:
            lost = self._take_up(state, message, now)
            broker.routes[message.instance] = peer.connection
            broker.configuring.told(peer.connection, now)
            effects.append(Note("worker.joined", (("worker", message.name), ("contributor", peer.contributor))))
        return [self.welcome(state, lost), *effects]

    def _is_anothers(self, peer: Peer, instance: str) -> bool:
        """What is sent to an instance must not go to whoever claims to be it."""
        broker = self._broker
        route = broker.peers.get(broker.routes.get(instance))
        holders = {lease.row.contributor for lease in broker.leases.current() if lease.row.instance == instance}
        if route is not None:
            holders.add(route.peer.contributor)
        return instance == broker.rules.instance or bool(holders - {peer.contributor})

    def welcome(self, state: PeerState, lost: tuple[str, ...] = ()) -> Send:
        """How this bus is run, for a peer that has introduced itself."""
        broker = self._broker
        welcome = m.Welcome(
            software=SOFTWARE,
            store_id=broker.store_id or None,
            dataset=broker.rules.dataset,
            heartbeat_seconds=broker.rules.heartbeat_seconds,
            lease_seconds=broker.rules.lease_seconds,
            window=broker.window(),
            generation=broker.rules.generation,
            spec=broker.rules.spec if state.peer.role is Role.WORKER else None,
            lost=lost,
            key_expires=state.peer.key_expires,
            now=broker.wall,
        )
        return Send(state.peer.connection, welcome)

    def _take_up(self, state: PeerState, message: m.Hello, now: float) -> tuple[str, ...]:
        """Leases that the worker says it holds go on; those that it does not know of end. Returns the lost ones."""
        broker = self._broker
        held = set(message.held)
        for lease in list(broker.leases.current()):
            if not broker.owns(state, lease):
                continue
            if lease.row.lease in held:
                self._go_on(lease, state.peer.connection, now)
            elif not lease.preparing:
                broker.end_lease(lease)
        rows = []
        for row in broker.remembered:
            if row.instance == message.instance and row.current and row.lease not in held:
                row = replace(row, current=False)
                broker.save(row)
            rows.append(row)
        broker.remembered = tuple(rows)
        known = (broker.leases.get(lease) for lease in message.held)
        current = {lease.row.lease for lease in known if lease and lease.current and broker.owns(state, lease)}
        current |= {row.lease for row in broker.remembered if row.current and row.instance == message.instance}
        return tuple(lease for lease in message.held if lease not in current)

    def _go_on(self, lease: LeaseState, connection: Connection, now: float) -> None:
        """Away, the worker could not tell of its progress: it has a full time to live to do so, but not time and
        again for coming back alone."""
        lease.connection = connection
        if lease.captioned > lease.taken_up_at:
            lease.taken_up_at = lease.captioned
            lease.deadline = max(lease.deadline, now + self._broker.rules.lease_seconds)

    def leave(self, state: PeerState, now: float) -> list[Effect]:
        """BYE: its leases return at once."""
        broker = self._broker
        for lease in list(broker.leases.current()):
            if broker.owns(state, lease):
                broker.end_lease(lease)
        return self.lose(state.peer.connection, state, now)

    def lose_silent(self, now: float) -> list[Effect]:
        """Those who said nothing for too long."""
        silent = [state for state in self._broker.peers.values() if now - state.heard > self.silence]
        return [effect for state in silent for effect in self.lose(state.peer.connection, state, now)]

    def lose(self, connection: Connection, state: PeerState, now: float) -> list[Effect]:
        """The connection is gone. Leases stay: their worker may come back."""
        broker = self._broker
        broker.peers.pop(connection, None)
        broker.granting.forget(connection)
        broker.configuring.forget(connection)
        for instance in [instance for instance, route in broker.routes.items() if route == connection]:
            del broker.routes[instance]
        if broker.writer is not None and broker.writer.connection == connection:
            broker.writer = None
            broker.granting.cancel_preparing()
        served = broker.feeding.gone(connection, now) if state.feeds_at else []
        return [*served, Note("peer.left", (("role", state.peer.role.value), ("name", state.name)))]
