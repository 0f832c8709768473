"""Feeders on the simulated bus: the real core that serves, workers that read through it, and what must be true of both.

Between a worker and a feeder there is no simulated network: a feeder is reached or it is not. What can go wrong between
them and the broker can go wrong everywhere. Who was told of which lease is judged from outside, by what was sent.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from simulation.network import Node

from cfbus.bus import messages as m
from cfbus.core import effects as e
from cfbus.core.outcome import WorkItem
from cfbus.core.retransmit import BROKER
from cfbus.core.serving import Admit, Read, Serving, ServingEffect, ServingRules
from cfbus.core.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.world import World

OUT_OF_REACH = 0.01
"""How often, while faults happen, a worker cannot reach a feeder that is there."""
PATIENCE_SECONDS = 5.0
DRAIN_SECONDS = 8.0
CREDIT = 1 << 40
Connection = tuple[str, int]


class Feeders:
    """All feeders of a world, and what each was told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes = [Node(f"f{i}", m.Role.FEEDER, "feeders") for i in range(world.plan.feeders)]
        self._ways: dict[tuple[str, str], m.Way] = {}
        self._told: dict[Connection, set[str]] = defaultdict(set)
        self._yes: dict[str, Connection] = {}
        self._fetched: list[tuple[m.Data, bytes]] = []

    # ------------------------------------------------------------------ the process of a feeder

    def start(self, node: Node) -> None:
        """A feeder starts and knows of no lease."""
        world = self._world
        node.life += 1
        node.core = Serving(ServingRules(world.new_id(), node.name, f"tcp://{node.name}:1"), world.now)
        world.net.link(node)

    def drain_one(self) -> None:
        """A feeder is asked to stop."""
        world = self._world
        node = world.rng.choice(self.nodes)
        if not isinstance(node.core, Serving) or node.core.draining:
            return
        world.seen["feeder drains"] += 1
        life, deadline = node.life, world.now + DRAIN_SECONDS
        world.node_effects(node, node.core.drain())

        def look() -> None:
            if not isinstance(node.core, Serving) or node.life != life:
                return
            if node.core.leases and world.now < deadline:
                world.later(0.5, look)
                return
            world.net.to_broker(node, m.Bye(), b"")
            world.later(0.9, lambda: world.crash(node, left=True) if node.life == life else None)

        look()

    def carry_out(self, node: Node, effect: ServingEffect) -> None:
        """One effect of a feeder."""
        world = self._world
        match effect:
            case e.Send(to, message, payload) if to == BROKER:
                world.net.to_broker(node, message, payload)
            case e.Send(_, message, payload):
                assert isinstance(message, m.Data)
                self._fetched.append((message, payload))
            case Read():
                assert isinstance(node.core, Serving)
                for more in node.core.loaded(effect.to, effect.lease, effect.index, b"", effect.key.encode(), None):
                    self.carry_out(node, more)
            case e.Note():
                world.note(effect)
            case Admit():
                pass
            case _:
                raise AssertionError(f"{node.name} gave up: {effect}")

    # ------------------------------------------------------------------ the worker's side

    def read_from(self, node: Node, effect: e.ReadFrom) -> None:
        """The worker's shell learns where the images of a lease are."""
        self._ways[node.name, effect.lease] = effect.way

    def forget(self, node: Node, effect: e.Forget) -> None:
        """Nothing more of it is read."""
        assert self._ways.pop((node.name, effect.lease), None) is not None, "a lease is forgotten twice, or never fed"

    def read(self, node: Node, item: WorkItem, then: Callable[[], None]) -> None:
        """Get an item's bytes, if its worker does not read by itself, and go on."""
        if node.reads:
            then()
        else:
            self._fetch(node, item, then, node.life, self._world.now + PATIENCE_SECONDS)

    def _fetch(self, node: Node, item: WorkItem, then: Callable[[], None], life: int, until: float) -> None:
        world, core = self._world, node.core
        way = self._ways.get((node.name, item.lease))
        if not isinstance(core, Worker) or node.life != life or way is None:
            return
        feeder = next(each for each in self.nodes if way.endpoint == f"tcp://{each.name}:1")
        assert way.public == feeder.public, "the address is one feeder's and the key another's"
        away = world.storm and world.rng.random() < OUT_OF_REACH
        if isinstance(feeder.core, Serving) and not away:
            if self._get(feeder.core, feeder, node, item):
                world.seen["fed"] += 1
                then()
                return
            world.seen["fed: no lease"] += 1
        elif not away and world.now < until:
            world.later(1.0, lambda: self._fetch(node, item, then, life, until))
            return
        else:
            world.seen["feeder out of reach"] += 1
        world.node_effects(node, core.feeder_unreachable(item.lease, world.now))
        world.shells.feed(node)
        world.wake(node)

    def _get(self, core: Serving, feeder: Node, node: Node, item: WorkItem) -> bool:
        self._fetched.clear()
        line = (node.name, node.life)
        fetch = m.Fetch(lease=item.lease, items=(item.index,), credit=CREDIT)
        for effect in core.fetch(line, node.public, fetch, self._world.now):
            self.carry_out(feeder, effect)
        core.check()
        assert len(self._fetched) == 1, "what is asked for is answered, once"
        fetched, content = self._fetched[0]
        assert (fetched.lease, fetched.index) == (item.lease, item.index)
        if fetched.failure is not None:
            assert fetched.failure.reason == "no-lease", f"a feeder says {fetched.failure.reason}"
            return False
        assert content.decode() == item.key, "a feeder serves another item"
        return True

    # ------------------------------------------------------------------ what must be true

    def broker_started(self) -> None:
        """A new broker has told nobody anything."""
        self._told.clear()
        self._yes.clear()

    def heard(self, node: Node, message: m.Message) -> None:
        """The broker is about to hear this."""
        if isinstance(message, m.Hello) and node.role is m.Role.FEEDER:
            self._world.seen["feeder comes with leases"] += bool(message.held)
            # Beside what it was told since: a HELLO that came twice says what was held when it was sent.
            self._told.setdefault(node.connection, set()).update(message.held)
        if isinstance(message, m.Allowed) and not message.problem:
            self._yes[message.lease] = node.connection

    def sent(self, node: Node, to: Connection, message: m.Message) -> None:
        """The broker sends this."""
        if node.role is not m.Role.FEEDER:
            return
        if isinstance(message, m.Welcome):
            self._told[to] -= set(message.lost)
        elif isinstance(message, m.Allow):
            self._world.seen["allow: renewal"] += message.renewal
            assert not message.renewal or message.lease in self._told[to], "what was never allowed is renewed"
            self._told[to].add(message.lease)
        elif isinstance(message, m.Forbid):
            self._told[to] -= set(message.leases)

    def granted(self, node: Node, grant: m.Grant) -> None:
        """A GRANT is sent: with a feeder that has said yes, where one is needed."""
        assert (grant.feeder is None) == node.reads, "who reads needs no feeder, who does not needs one"
        if grant.feeder is None:
            return
        self._world.seen["granted with a feeder"] += 1
        name, epoch = self._yes.get(grant.lease, ("", 0))
        assert grant.feeder.endpoint == f"tcp://{name}:1", "granted before its feeder said that it serves it"
        broker = self._world.broker
        assert broker is not None
        assert (name, epoch) in broker.peers, "granted with a feeder that is gone"

    def settled(self, ways: dict[str, m.Way]) -> None:
        """The broker has done all that followed from something. ``ways`` are those that it granted, by lease."""
        broker = self._world.broker
        if broker is None or not self.nodes:
            return
        known = {lease.row.lease for lease in broker.leases.current()}
        known |= {row.lease for row in broker.remembered if row.current}
        by_instance: dict[str, Connection] = {}
        for connection, leases in list(self._told.items()):
            peer = broker.peers.get(connection)
            if peer is None:
                del self._told[connection]
                continue
            assert by_instance.setdefault(peer.instance, connection) == connection, "a feeder is there twice"
            assert leases <= known, f"{connection} was never told that {leases - known} are over"
            for lease in leases:
                way = ways.get(lease)
                assert way is None or way.endpoint == peer.feeds_at or lease not in self._yes, (
                    f"{connection} is to serve what was granted with another feeder"
                )
