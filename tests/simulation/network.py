"""The simulated network: links between the broker and its peers that lose, double, delay, cut and break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulation.disk import Spool

from cfbus.bus.wire import decode, encode
from cfbus.core.effects import Peer
from cfbus.core.serving import Serving
from cfbus.core.worker import Worker
from cfbus.core.writer import Writer

if TYPE_CHECKING:
    from simulation.world import World

    from cfbus.bus.messages import Message, Role

LATE_SECONDS = 0.1


@dataclass(eq=False)
class Node:
    """A simulated process: its core while it is up, and its link to the broker."""

    name: str
    role: Role
    contributor: str
    core: Worker | Writer | Serving | None = None
    life: int = 0  # of the process
    epoch: int = 0  # of the link; messages of older epochs are lost
    linked: bool = False
    stalled_until: float = 0.0  # alive, but hears and says nothing
    cut_until: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    last_arrival: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    timer: float | None = None
    idle_ticks: int = 0
    spool: Spool = field(default_factory=dict)
    window: int = 0  # as it was last told
    widest: int = 0  # the widest that it was told in this life, and what its spool had
    speed: float = 0.1
    liar: bool = False
    zombie: bool = False
    hostile: bool = False
    reads: bool = True  # the source, by itself
    generation: int = 0  # by which it captions what it begins
    prompts: frozenset[str] = frozenset()  # the slots that it knows how to ask for

    @property
    def connection(self) -> tuple[str, int]:
        """What the broker knows it by."""
        return self.name, self.epoch

    @property
    def public(self) -> str:
        """Its key."""
        return self.name.ljust(40, "k")


class Network:
    """All links."""

    def __init__(self, world: World) -> None:
        self._world = world

    def link(self, node: Node) -> None:
        """A new connection."""
        node.epoch += 1
        node.linked = True
        if node.core is not None:
            self._world.node_effects(node, node.core.connected(self._world.now))
            self._world.wake(node)

    def unlink(self, node: Node) -> None:
        """The connection breaks: what was on its way is lost; it comes back after a while."""
        if not node.linked:
            return
        world, life = self._world, node.life
        node.linked = False
        node.epoch += 1

        def again() -> None:
            if node.life == life and not node.linked and node.core is not None:
                self.link(node)

        world.later(world.rng.uniform(0.05, 8.0), again)

    def to_broker(self, node: Node, message: Message, payload: bytes) -> None:
        """A peer sends."""
        world = self._world
        frames = encode(message, payload)
        peer = Peer(node.connection, f"key-{node.name}", node.contributor, node.role, node.public)

        def deliver() -> None:
            if world.broker is not None:
                back, body = decode(frames)
                world.broker_hears(node, peer, back, body)

        self._carry(message.TAG, node, "up", deliver)

    def from_broker(self, node: Node, message: Message, payload: bytes) -> None:
        """The broker sends to a peer that is there."""
        world = self._world
        frames = encode(message, payload)
        epoch = node.epoch

        def deliver() -> None:
            if node.core is None or node.epoch != epoch:
                return
            if world.now < node.stalled_until:
                world.later(node.stalled_until - world.now, deliver)
                return
            back, body = decode(frames)
            world.node_hears(node, back, body)

        self._carry(message.TAG, node, "down", deliver)

    def _carry(self, name: str, node: Node, way: str, deliver: Callable[[], None]) -> None:
        """One message over a link: lost, doubled or late, as the seed has it."""
        world = self._world
        if not node.linked:
            world.seen["sent without link"] += 1
            return
        if world.now < node.cut_until[way]:
            world.seen[f"cut {way}: {node.role.value}"] += 1
            return
        epoch, copies = node.epoch, 1
        if world.storm:
            chance = world.rng.random()
            if chance < world.plan.loss:
                world.seen[f"lost: {name}"] += 1
                return
            if chance < world.plan.loss + world.plan.double:
                world.seen[f"doubled: {name}"] += 1
                copies = 2
        for _ in range(copies):
            delay = 0.001 + world.rng.random() * world.plan.jitter * (world.rng.random() < 0.3)
            if delay > LATE_SECONDS:
                world.seen[f"late: {name}"] += 1
            if not (world.plan.reorder and world.storm):
                # As TCP does: nothing overtakes.
                delay = max(delay, node.last_arrival[way] - world.now)
                node.last_arrival[way] = world.now + delay
            world.later(delay, lambda: deliver() if node.epoch == epoch else None)
