"""The configuration of the simulated broker: a file that people change while it runs, well and badly.

What must be true: a generation belongs to one spec as long as the ledger lives; what is stored says by which it was
made; every worker follows in the end; what is refused changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from simulation.network import Node

from cfbus.bus import messages as m
from cfbus.core.configuring import Settings

if TYPE_CHECKING:
    from simulation.world import World

FORGED = "x"
KINDS = ("prompts", "sizes", "slot", "same", "gone")


class Reloads:
    """The file, and what the broker was known by so far."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.slots = world.plan.slots
        self.chunk = world.plan.chunk
        self.forgotten = False  # the ledger was lost: numbers may be given again
        self._prompt = 0
        self._added = 0
        self._room = 0 if world.plan.fat else 2  # captions of an item must fit a message
        self.ever = set(self.slots)  # each of them has a pass in the end
        self._specs: dict[str, set[str]] = {}
        self._told: set[tuple[str, int, int]] = set()

    def spec(self) -> m.Spec:
        """What the file says."""
        slots = tuple(m.Slot(name=name, prompt=f"write {name} {self._prompt}", prompt_id=name) for name in self.slots)
        known = zlib.crc32(repr((self.slots, self._prompt)).encode())
        return m.Spec(hash=f"{known:016x}", engine="scripted", pixel_budget=1, max_pixels=1, slots=slots)

    def reload(self) -> None:
        """Somebody changes the file, and has the broker read it."""
        world = self._world
        kind = world.rng.choice(KINDS)
        if world.broker is None:
            world.seen["reload: away"] += 1
            return
        before = (self.slots, self.chunk, self._prompt)
        if kind == "prompts":
            self._prompt += 1
        elif kind == "sizes":
            self.chunk = world.rng.choice([1, 3, 8, 20, 100])
        elif kind == "slot" and self._added < self._room:
            self._added += 1
            self.slots = (*self.slots, f"r{self._added}")
        elif kind == "gone" and len(self.slots) > 1:
            self.slots = self.slots[1:]
        self._read(kind, before)

    def _read(self, kind: str, before: tuple[tuple[str, ...], int, int]) -> None:
        world, broker = self._world, self._world.broker
        assert broker is not None
        rules = broker.rules
        spec = self.spec()
        if broker.configuring.problems(spec):
            world.seen["reload: refused"] += 1
            self.slots, self.chunk, self._prompt = before  # a person puts it back
            return
        settings = Settings(spec, self.chunk, rules.lease_seconds, rules.max_attempts, rules.limits)
        effects = broker.configuring.change(settings, world.now)
        if self.spec() == rules.spec and self.chunk == rules.chunk_size:
            kind = "same"
            assert not effects, "a file that is as it was changes something"
        world.seen[f"reload: {kind}"] += 1
        world.tell(f"reload: {kind}, generation {broker.rules.generation}")
        self.holds()
        world.broker_effects(effects)

    def holds(self) -> None:
        """The broker goes by a generation from now on."""
        broker = self._world.broker
        assert broker is not None
        self.ever |= set(self.slots)
        specs = self._specs.setdefault(str(broker.rules.generation), set())
        specs.add(broker.rules.spec.hash)
        assert self.forgotten or len(specs) == 1, "a generation is given twice"
        self._world.seen["generation goes on after a crash"] += broker.rules.generation > 1 and not broker.peers

    def labelled(self, constants: Mapping[str, str]) -> None:
        """A caption is stored that says by what it was made."""
        by, world = constants["generation"], self._world
        if by == FORGED:
            return  # what else is wrong with it is found when it is written
        assert constants["spec"] in self._specs.get(by, ()), f"no generation {by} had spec {constants['spec']}"
        if world.broker is not None and int(by) < world.broker.rules.generation:
            world.seen["caption by an older generation"] += 1

    def followed(self) -> bool:
        """All workers caption by what holds, and have said so."""
        broker = self._world.broker
        assert broker is not None
        answers = broker.configuring.answers()
        behind = [node for node in self._world.workers if node.generation != broker.rules.generation]
        return not behind and len(answers) >= len(self._world.workers) and all(a.outcome == "applied" for a in answers)

    def sent(self, node: Node, message: m.Message) -> None:
        """The broker sends."""
        if isinstance(message, m.Config):
            told = (*node.connection, message.generation)
            self._world.seen["config told again"] += told in self._told
            self._told.add(told)
